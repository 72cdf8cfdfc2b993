//! Reference logits against Hugging Face `transformers`: every architecture, also with weights in bf16, many sequences at once.

use std::path::Path;
use zonda_engine::TokenId;
use zonda_engine::forward::BackendError;
use zonda_engine::load::Model;
use zonda_native::Native;
use zonda_testkit::goldens::{cases, folders};

fn reference(model: &Path, sequences: &[Vec<TokenId>]) -> Result<Vec<Vec<f32>>, BackendError> {
    let mut rows = Vec::new();
    Native::reference(&Model::open(model).unwrap(), Some(2), sequences, &mut |row| {
        rows.push(row.to_vec());
        Ok::<_, BackendError>(())
    })?;
    Ok(rows)
}

#[test]
fn reference_logits_match_transformers() {
    for folder in folders() {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let (sequences, expected): (Vec<_>, Vec<_>) = cases(&folder).into_iter().unzip();
        // `transformers` chooses LongRoPE's factors by a text's length; we, by the longest sequence.
        let rows = match name {
            "phi3_long" => {
                sequences.iter().flat_map(|s| reference(&folder, std::slice::from_ref(s)).unwrap()).collect()
            }
            _ => reference(&folder, &sequences).unwrap(),
        };
        let mut rows = rows.iter();
        for (ids, expected) in sequences.iter().zip(expected) {
            let vocab = expected.len() / ids.len();
            for (i, expected) in expected.chunks_exact(vocab).enumerate() {
                let row = rows.next().expect("a row for every position");
                let worst = row.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst <= 1e-3 && row.len() == vocab, "{name}, position {i}: off by {worst}");
            }
        }
        assert_eq!(rows.count(), 0, "{name}");
    }
}

#[test]
fn invalid_sequences_are_errors() {
    let folder = folders().remove(0);
    let model = Model::open(&folder).unwrap();
    for wrong in [vec![], vec![model.spec.vocab_size as TokenId], vec![0; model.spec.context_length + 1]] {
        assert!(reference(&folder, &[vec![1, 2], wrong]).is_err());
    }
    assert!(reference(&folder, &[]).is_err());
}
