//! Runs every input of `corpus/` through its target: the seeds, and what once failed.

use std::path::Path;
use zonda_fuzz::TARGETS;

#[test]
fn every_input_is_parsed_or_refused() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut folders = 0;
    for entry in std::fs::read_dir(&corpus).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|target| target.name == name), "{name} is not a target");
        folders += 1;
    }
    assert_eq!(folders, TARGETS.len());
    for target in TARGETS {
        let mut inputs = 0;
        for entry in std::fs::read_dir(corpus.join(target.name)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display()); // printed if the target fails
            (target.run)(&std::fs::read(&path).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0, "{} has no seeds", target.name);
    }
}
