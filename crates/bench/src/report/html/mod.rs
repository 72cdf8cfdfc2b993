//! `report.html`: a self-contained page for light and dark mode and any width. [`super::findings`] computes its sentences,
//! `plots` draws its plots.
//!
//! Names, errors and generated text come from files and other programs, so all of them are escaped.

mod bars;
mod elements;
mod page;
mod plots;
mod svg;
mod tables;

pub use page::to_string;
