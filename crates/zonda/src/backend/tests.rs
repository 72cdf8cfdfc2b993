//! Tests of backend names, and of the choice of a backend for a model.

use super::{BackendKind, choose};
use crate::located::Located;

fn located(path: Option<&str>) -> Located {
    Located { name: path.unwrap_or("mock").to_owned(), path: path.map(Into::into) }
}

#[test]
fn names_are_those_of_the_command_line() {
    for kind in BackendKind::ALL {
        assert_eq!(kind.to_string().parse::<BackendKind>().unwrap(), kind);
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
    assert!("cuda".parse::<BackendKind>().unwrap_err().to_string().contains("llama-cpp"));
}

#[test]
fn a_backend_that_was_asked_for_starts_or_errors() {
    let real = located(Some("m.gguf"));
    if cfg!(feature = "native") {
        assert_eq!(choose(None, &real).unwrap(), BackendKind::Native);
    }
    assert_eq!(choose(None, &located(None)).unwrap(), BackendKind::Mock);
    for (kind, model) in [
        (BackendKind::Mock, &real),
        (BackendKind::Native, &located(None)),
        (BackendKind::LlamaCpp, &located(None)),
        (BackendKind::Mlx, &located(None)),
    ] {
        assert!(choose(Some(kind), model).is_err(), "{kind:?}");
    }
    let built =
        [(BackendKind::LlamaCpp, cfg!(feature = "llama-cpp")), (BackendKind::Mlx, cfg!(feature = "mlx"))];
    for (kind, built) in built {
        assert_eq!(choose(Some(kind), &real).is_ok(), built, "{kind:?}");
    }
}
