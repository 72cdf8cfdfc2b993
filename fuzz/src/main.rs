//! One libFuzzer program for all targets: `ZONDA_FUZZ=NAME zonda-fuzz CORPUS…`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use zonda_fuzz::{TARGETS, Target, target};

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("ZONDA_FUZZ").unwrap_or_default();
    target(&name).unwrap_or_else(|| {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("ZONDA_FUZZ: expected one of {}, found {name:?}", names.join(", "));
        std::process::exit(2)
    })
});

fuzz_target!(|data: &[u8]| (TARGET.run)(data));
