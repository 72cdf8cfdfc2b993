//! `report.html`: a self-contained page, light and dark, wide and narrow. [`super::findings`] computes its sentences, `plots`
//! draws.
//!
//! Names, errors and generated text come from files and other programs: all of them are escaped.

mod bars;
mod elements;
mod page;
mod plots;
mod svg;
mod tables;

pub use page::to_string;
