//! What every loading target does with its file: open it and look at every byte.

use std::path::Path;

use zonda_engine::load::{Model, first_non_finite};

/// Opens a model and reads all of it. Errors are what damaged files should give; their messages must be writable.
pub fn read_all(path: &Path) {
    let result = Model::open(path).and_then(|model| {
        let _ = (model.tensors(), model.parameters(), model.types(), model.type_label());
        let _ = model.memory(model.spec.context_length, 2);
        for role in model.spec.roles() {
            let tensor = model.tensor(role)?;
            first_non_finite(&tensor);
            tensor.to_f32();
        }
        Ok(())
    });
    if let Err(error) = result {
        assert!(!error.to_string().is_empty());
    }
}
