//! Which backend runs a model.

use super::fit::other_forward;
use super::kind::BackendKind;
use crate::error::{Detail, Error, Result};
use crate::located::Located;

/// The backend for a model: the one that was asked for, else the best one in this build that can run it. Where none can, the
/// best that reads its format, which says why when it opens the model.
///
/// # Errors
/// [`Error::Unavailable`] if the one that was asked for is not in this build or does not run this model, or if none does.
pub fn choose(asked: Option<BackendKind>, model: &Located) -> Result<BackendKind> {
    let refuse = |message: String, advice: &str| Err(Error::Unavailable(Detail::new(message).advise(advice)));
    let Some(kind) = asked else {
        let best = || BackendKind::AVAILABLE.iter().copied().find(|kind| kind.reads(model));
        return match other_forward(model).or_else(best) {
            Some(kind) => Ok(kind),
            None => refuse(
                format!("no backend in this build runs {}", model.name),
                "build with the feature `native`, `llama-cpp` or `mlx`",
            ),
        };
    };
    kind.check_available()?;
    match (kind, &model.path) {
        (BackendKind::Mock, Some(_)) => refuse(
            format!("the mock backend has its own model and does not run {}", model.name),
            "use `-m mock`, or another backend",
        ),
        (BackendKind::Mock, None) | (_, Some(_)) => Ok(kind),
        (_, None) => refuse(
            format!("the model mock runs on the mock backend only, not on {kind}"),
            "omit `--backend`, or name a real model",
        ),
    }
}
