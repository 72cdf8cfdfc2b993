//! Opens a model file and reads every byte: the body of each target.

use std::path::Path;

use zonda_engine::load::{Model, first_non_finite};

/// Opens a model and reads all of it. Damaged files must give errors whose messages can be formatted.
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
