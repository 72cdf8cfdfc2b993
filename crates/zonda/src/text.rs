//! A model's files, and its tokenizer and chat template.

use crate::backend::{self, BackendKind};
use crate::error::{Detail, Error, Result};
use crate::located::Located;
use std::path::Path;
use std::sync::Arc;
use zonda_engine::TextProcessor;
use zonda_engine::load::Model as ModelFiles;
use zonda_engine::tokenize::{ChatTemplate, TokenizeError, Tokenizer};

/// Opens a model's files without loading weights. `None` for the mock.
///
/// # Errors
/// [`Error::Load`].
pub fn open_files(model: &Located) -> Result<Option<Arc<ModelFiles>>> {
    Ok(model.path.as_deref().map(ModelFiles::open).transpose()?.map(Arc::new))
}

/// Opens a model's files for a backend, without loading weights. `None` for the mock. llama.cpp gets any GGUF file, the others
/// only what the engine reads.
///
/// # Errors
/// [`Error::Load`]; [`Error::Unavailable`] if another backend can run the file.
pub fn open_files_for(kind: BackendKind, model: &Located) -> Result<Option<Arc<ModelFiles>>> {
    let Some(path) = model.path.as_deref() else { return Ok(None) };
    let files = match kind.has_own_forward() {
        true => ModelFiles::open_any(path),
        false => ModelFiles::open(path).and_then(|files| files.check().map(|()| files)),
    };
    files.map(|files| Some(Arc::new(files))).map_err(|error| match backend::instead_of(kind, path) {
        None => error.into(),
        Some(advice) => {
            let message = format!("the {kind} backend can't run {}: {error}", model.name);
            Error::Unavailable(Detail::new(message).advise(advice))
        }
    })
}

/// A model's tokenizer and chat template; `None` for a model without a tokenizer. `model` is `None` for the mock.
///
/// # Errors
/// If there is a tokenizer and it can't be read.
pub fn text_of(model: Option<&ModelFiles>) -> Result<Option<TextProcessor>> {
    let Some(model) = model else { return Ok(Some(TextProcessor::mock())) };
    let tokenizer = match Tokenizer::for_model(model) {
        Err(error @ TokenizeError::Unsupported { .. }) => Some(of_backend(model, error)?),
        own => own?,
    };
    let Some(tokenizer) = tokenizer else { return Ok(None) };
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
        Some(path) => match Tokenizer::from_file(path) {
            Err(error @ TokenizeError::Unsupported { .. }) => match ModelFiles::open_any(path) {
                Ok(files) => of_backend(&files, error),
                Err(_) => Err(error.into()),
            },
            own => Ok(own?),
        },
    }
}

/// A backend's tokenizer for a kind that the engine lacks, which it says in `error`.
fn of_backend(model: &ModelFiles, error: TokenizeError) -> Result<Tokenizer> {
    Ok(backend::tokenizer(model).unwrap_or(Err(error))?)
}

fn of_folder(folder: &Path) -> Result<Tokenizer> {
    Tokenizer::from_folder(folder)?.ok_or(Error::NoTokenizer)
}
