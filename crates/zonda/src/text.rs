//! A model's files, and its tokenizer and chat template.

use crate::error::{Error, Result};
use crate::located::Located;
use std::path::Path;
use std::sync::Arc;
use zonda_engine::TextProcessor;
use zonda_engine::load::Model as ModelFiles;
use zonda_engine::tokenize::{ChatTemplate, Tokenizer};

/// Opens a model's files without loading weights. `None` for the mock.
///
/// # Errors
/// [`Error::Load`].
pub fn open_files(model: &Located) -> Result<Option<Arc<ModelFiles>>> {
    Ok(model.path.as_deref().map(ModelFiles::open).transpose()?.map(Arc::new))
}

/// A model's tokenizer and chat template; `None` for a model without a tokenizer. `model` is `None` for the mock.
///
/// # Errors
/// If there is a tokenizer and it can't be read.
pub fn text_of(model: Option<&ModelFiles>) -> Result<Option<TextProcessor>> {
    let Some(model) = model else { return Ok(Some(TextProcessor::mock())) };
    let Some(tokenizer) = Tokenizer::for_model(model)? else { return Ok(None) };
    let template = ChatTemplate::for_model(model, &tokenizer)?.map(Arc::new);
    Ok(Some(TextProcessor { tokenizer: Arc::new(tokenizer), template }))
}

/// The tokenizer of a model, or of a separate tokenizer file: a vocabulary-only GGUF, tokenizer.json, tokenizer.model
/// or tekken.json.
///
/// # Errors
/// [`Error::NoTokenizer`] if a folder has none, [`Error::Tokenizer`] if it can't be read.
pub fn open_tokenizer(model: &Located) -> Result<Tokenizer> {
    match &model.path {
        None => Ok(Tokenizer::mock()),
        Some(path) if path.is_dir() => of_folder(path),
        Some(path) => Ok(Tokenizer::from_file(path)?),
    }
}

fn of_folder(folder: &Path) -> Result<Tokenizer> {
    Tokenizer::from_folder(folder)?.ok_or(Error::NoTokenizer)
}
