//! Tests of which backend a model gets, and of options on their way to a child process.

use super::*;

fn located(path: Option<&str>) -> Located {
    Located { name: path.unwrap_or("mock").to_owned(), path: path.map(Into::into) }
}

#[test]
fn names_are_those_of_the_command_line() {
    for kind in BackendKind::value_variants() {
        assert_eq!(BackendKind::named(kind.name()), Some(*kind));
        assert_eq!(kind.to_possible_value().map(|v| v.get_name().to_owned()), Some(kind.name().to_owned()));
    }
}

#[test]
fn options_reach_a_child_process_as_they_are() {
    let options = OpenOptions {
        device: Device::Cpu,
        gpu_layers: Some(12),
        threads: Some(2),
        ctx: Some(512),
        isa: Some("scalar".into()),
        quantize: Some("q8_0".into()),
        kv_type: Some("f32".into()),
        no_memory_check: true,
        seed: Some(u64::MAX),
        mock_step: Some(3),
        parallel: Some(4),
        kv_contexts: Some(2),
        speculation: Speculation {
            how: zonda_engine::Speculate::Draft,
            draft: Some("/models/small.gguf".into()),
            most: Some(8),
            least: Some(1),
        },
    };
    assert_eq!(OpenOptions::from_map(&options.to_map()).unwrap(), options);
    assert_eq!(OpenOptions::default().to_map(), BTreeMap::new());
    for (name, value) in [("threads", "two"), ("device", "tpu"), ("speed", "max"), ("speculate", "always")] {
        assert!(OpenOptions::from_map(&BTreeMap::from([(name.into(), value.into())])).is_err(), "{name}");
    }
}

#[test]
fn a_backend_that_was_asked_for_starts_or_errors() {
    let real = located(Some("m.gguf"));
    assert_eq!(choose(None, &real).unwrap(), BackendKind::Native);
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
