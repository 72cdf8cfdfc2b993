//! What tests of several crates share: test models, goldens, the rules of the backend trait.
