//! Tests of backend names, and of the choice of a backend for a model.

use super::{BackendKind, Fit, choose, unfit};
use crate::located::Located;
use crate::text::open_files_for;
use zonda_engine::load::{Model as ModelFiles, Value};
use zonda_testkit::foreign::{bare, foreign};
use zonda_testkit::rules::tiny;

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

/// What each backend says of a file: native, then llama.cpp.
fn fits(model: &ModelFiles) -> [Option<String>; 2] {
    let of = |kind| Fit::of(model).into_iter().find(|fit| fit.backend == kind).unwrap().why_not;
    [of(BackendKind::Native), of(BackendKind::LlamaCpp)]
}

#[test]
fn a_file_of_an_unknown_architecture_goes_to_llama_cpp() {
    let dir = tempfile::tempdir().unwrap();
    let own = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    assert_eq!(fits(&own), [None, None]);
    let located = Located::at(foreign("falcon", &own.metadata, dir.path()));
    let model = ModelFiles::open_any(located.path().unwrap()).unwrap();
    let [native, llama_cpp] = fits(&model);
    assert!(native.unwrap().contains("architecture \"falcon\" is not supported"));
    assert_eq!(llama_cpp, None);
    if cfg!(feature = "native") {
        assert_eq!(choose(None, &Located::at(&own.path)).unwrap(), BackendKind::Native);
        let kind = if cfg!(feature = "llama-cpp") { BackendKind::LlamaCpp } else { BackendKind::Native };
        assert_eq!(choose(None, &located).unwrap(), kind);
    }
    // A backend that was asked for by name says what can run it instead.
    let error = open_files_for(BackendKind::Native, &located).unwrap_err();
    assert!(error.to_string().contains("the native backend can't run falcon"), "{error}");
    let advice = error.advice().unwrap();
    let says = if cfg!(feature = "llama-cpp") { "`--backend llama-cpp`" } else { "--features llama-cpp" };
    assert!(advice.contains("the llama-cpp backend") && advice.contains(says), "{advice}");
    assert!(unfit(BackendKind::Native, &located).is_some());
    assert!(open_files_for(BackendKind::LlamaCpp, &located).unwrap().unwrap().unsupported().is_some());
}

#[test]
fn files_that_nothing_runs_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let own = tiny("tiny-llama", "f32".parse().unwrap(), dir.path());
    let mut tokenizer = own.metadata.clone();
    tokenizer.0.insert("starcoder2.rope.scaling.type".into(), Value::String("new".into()));
    for (architecture, says) in [
        ("no-such-architecture", "does not have the architecture \"no-such-architecture\""),
        ("bert", "do not continue a text"),
        ("starcoder2", "starcoder2.rope.scaling.type is \"new\""),
    ] {
        let path = bare(architecture, &tokenizer, dir.path());
        let [native, llama_cpp] = fits(&ModelFiles::open_any(&path).unwrap());
        assert!(native.is_some());
        assert!(llama_cpp.as_ref().is_some_and(|why| why.contains(says)), "{llama_cpp:?}");
        // Nothing is advised that would fail, too.
        let error = open_files_for(BackendKind::Native, &Located::at(&path)).unwrap_err();
        assert!(!error.advice().unwrap_or_default().contains("llama-cpp"), "{error}");
    }
}
