//! What stands for [`Constraint`] without the feature `grammar`: nothing can be compiled, so no value of it exists.

use super::error::SampleError;
use super::grammar::{Grammar, GrammarError};
use crate::TokenId;
use crate::tokenize::Tokenizer;

/// Compiles no grammar: the feature `grammar` is off.
#[derive(Debug)]
pub enum GrammarCompiler {}

impl GrammarCompiler {
    /// Fails.
    ///
    /// # Errors
    /// [`GrammarError::NotCompiled`], always.
    pub fn new(_: &Tokenizer) -> Result<GrammarCompiler, GrammarError> {
        Err(GrammarError::NotCompiled)
    }

    /// Is never called, as there is no compiler.
    ///
    /// # Errors
    /// None.
    pub fn compile(&self, _: &Grammar) -> Result<Constraint, GrammarError> {
        match *self {}
    }
}

/// One generation's state; there is none without the feature `grammar`.
#[derive(Clone, Debug)]
pub enum Constraint {}

impl Constraint {
    /// Is never called.
    ///
    /// # Errors
    /// None.
    pub fn mask(&mut self, _: &mut [f32], _: usize) -> Result<(), SampleError> {
        match *self {}
    }

    /// Is never called.
    ///
    /// # Errors
    /// None.
    pub fn accept(&mut self, _: TokenId, _: usize) -> Result<(), SampleError> {
        match *self {}
    }
}
