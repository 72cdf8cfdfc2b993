//! How a backend derives its [`Limits`] from a model and the options it was given.

use super::backend::BackendError;
use crate::batch::{BatchError, Limits, Slot};
use crate::load::ModelSpec;

impl Limits {
    /// The context length to open a model with: `asked`, or else the model's own, at most [`Limits::DEFAULT_CONTEXT`].
    ///
    /// # Errors
    /// If it is 0 or longer than the model's.
    pub fn context_of(spec: &ModelSpec, asked: Option<usize>) -> Result<usize, BackendError> {
        let context = asked.unwrap_or_else(|| spec.context_length.min(Self::DEFAULT_CONTEXT));
        if context == 0 || context > spec.context_length {
            return Err(BackendError::Unsupported(format!(
                "a context of {context} tokens; this model supports 1 to {}",
                spec.context_length
            )));
        }
        Ok(context)
    }

    /// The limits of a backend whose KV cache has pages of `kv_page` tokens. The cache holds `kv_tokens`, or every slot's whole
    /// context, rounded up to whole pages.
    ///
    /// # Errors
    /// As [`Limits::context_of`]; also if `slots` or `batch_tokens` is 0.
    pub fn paged(
        spec: &ModelSpec,
        context: Option<usize>,
        slots: usize,
        batch_tokens: usize,
        kv_tokens: Option<usize>,
        kv_page: usize,
    ) -> Result<Limits, BackendError> {
        let context = Self::context_of(spec, context)?;
        if slots == 0 || batch_tokens == 0 {
            return Err(BackendError::Unsupported(
                "0 slots or 0 tokens a batch; expected at least 1".to_owned(),
            ));
        }
        let whole = context.next_multiple_of(kv_page).saturating_mul(slots);
        let kv_tokens = kv_tokens.unwrap_or(whole);
        let kv_tokens = kv_tokens.checked_next_multiple_of(kv_page).unwrap_or(usize::MAX / kv_page * kv_page);
        Ok(Limits { slots, batch_tokens, context, kv_tokens, kv_page })
    }

    /// Refuses a slot that does not exist.
    ///
    /// # Errors
    /// [`BackendError::NoSuchSlot`].
    pub fn check_slot(&self, slot: Slot) -> Result<(), BackendError> {
        let slots = self.slots;
        if slot < slots { Ok(()) } else { Err(BackendError::NoSuchSlot { slot, slots }) }
    }

    /// Refuses a slot that does not exist or holds tokens: prefixes are shared with empty slots only, and keys and values
    /// imported into them. `len` gives the length a slot has now.
    ///
    /// # Errors
    /// [`BackendError::NoSuchSlot`], [`BatchError::WrongStart`].
    pub fn check_empty(&self, slot: Slot, len: impl FnOnce(Slot) -> usize) -> Result<(), BackendError> {
        self.check_slot(slot)?;
        match len(slot) {
            0 => Ok(()),
            len => Err(BatchError::WrongStart { slot, start: 0, len }.into()),
        }
    }
}
