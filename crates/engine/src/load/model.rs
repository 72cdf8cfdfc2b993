//! [`Model`]: an opened model of either format, with its spec and its tensors by role.

use std::fmt;
use std::path::{Path, PathBuf};

use super::affine::Quantization;
use super::fused::{FusedLocation, FusedTensor, StoredExpert};
use super::names::{self, TensorLocation};
use super::source::{Store, Stored, TensorInfo};
use super::{
    AffineTensor, GgufFile, LoadError, Metadata, ModelSpec, StoredType, Tensor, TensorRole, gguf_spec, hf,
    safetensors,
};

/// The supported formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One `.gguf` file, or one split into parts.
    Gguf,
    /// A Hugging Face folder: `config.json` and SafeTensors files.
    SafeTensors,
    /// Such a folder with matrices quantised by MLX.
    Mlx,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Format::Gguf => "gguf",
            Format::SafeTensors => "safetensors",
            Format::Mlx => "mlx",
        })
    }
}

impl Format {
    /// The presumable format of a path; nothing is checked.
    pub fn of(path: &Path) -> Format {
        match (path.is_dir(), hf::says_mlx(&path.join("config.json"))) {
            (false, _) => Format::Gguf,
            (true, false) => Format::SafeTensors,
            (true, true) => Format::Mlx,
        }
    }
}

/// An opened model. Its files stay mapped while it, or a [`Tensor`] of it, lives; weights are read as they are used.
/// `Send + Sync`: share it in an `Arc`.
#[derive(Debug)]
pub struct Model {
    /// The file or folder.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Its spec.
    pub spec: ModelSpec,
    /// GGUF's key-value pairs; empty for other formats.
    pub metadata: Metadata,
    store: Store,
    /// For [`Format::Mlx`] only.
    quantization: Option<Quantization>,
}

/// A tensor as it is stored.
enum FoundTensor {
    Plain(Tensor),
    Affine(AffineTensor),
    Fused(FusedTensor),
}

impl FoundTensor {
    fn into_tensor(self) -> Tensor {
        match self {
            FoundTensor::Plain(tensor) => tensor,
            FoundTensor::Affine(affine) => affine.to_tensor(),
            FoundTensor::Fused(fused) => fused.into_tensor(),
        }
    }
}

impl Model {
    /// Opens a `.gguf` file (any part of a split one) or a folder with `config.json` and SafeTensors.
    ///
    /// Weights are not read, except for a few that belong to the spec. [`Model::check`] checks that all tensors are present in
    /// supported types.
    ///
    /// # Errors
    /// If the model can't be read, is malformed, or is not supported.
    pub fn open(path: &Path) -> Result<Model, LoadError> {
        let not_a_model =
            |found: &str| LoadError::NotAModel { path: path.to_owned(), found: found.to_owned() };
        let kind = std::fs::metadata(path).map_err(|error| LoadError::Io { path: path.to_owned(), error })?;
        if kind.is_dir() {
            if !path.join("config.json").is_file() {
                return Err(not_a_model("it is a folder without config.json"));
            }
            return Model::open_folder(path);
        }
        match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors" | "json") => Err(not_a_model("it is one file of a folder")),
            _ => Model::open_gguf(path),
        }
    }

    fn open_gguf(path: &Path) -> Result<Model, LoadError> {
        let file = GgufFile::open(path)?;
        if file.store.tensors().is_empty() {
            return Err(LoadError::NoTensors { path: path.to_owned() });
        }
        let spec = gguf_spec::read(path, &file.metadata, &file.store)?;
        let (path, format, metadata) = (path.to_owned(), Format::Gguf, file.metadata);
        let model = Model { path, format, spec, metadata, store: file.store, quantization: None };
        model.with_known_tensors(names::knows_gguf)
    }

    fn open_folder(path: &Path) -> Result<Model, LoadError> {
        let (mut spec, quantization) = hf::read(&path.join("config.json"))?;
        let mut store = safetensors::open(path)?;
        let skipped = store.keep_text_part();
        if skipped > 0 {
            tracing::info!(path = %path.display(), tensors = skipped, "the text part is run; the parts for images are skipped");
        }
        let head = names::hugging_face(TensorRole::Output, spec.architecture);
        spec.tied_embeddings |= store.get(&head).is_none();
        let (format, known): (_, fn(&str, &ModelSpec) -> bool) = match quantization {
            Some(_) => (Format::Mlx, names::knows_mlx),
            None => (Format::SafeTensors, names::knows_hugging_face),
        };
        let (path, metadata) = (path.to_owned(), Metadata::default());
        Model { path, format, spec, metadata, store, quantization }.with_known_tensors(known)
    }

    /// Rejects a model with a tensor that the forward pass would ignore, such as a bias of a variant.
    fn with_known_tensors(self, known: fn(&str, &ModelSpec) -> bool) -> Result<Model, LoadError> {
        match self.store.tensors().iter().find(|t| !known(&t.name, &self.spec)) {
            None => Ok(self),
            Some(stored) => Err(LoadError::UnexpectedTensor {
                path: self.store.path_of(stored).to_owned(),
                tensor: stored.name.clone(),
                architecture: self.spec.architecture.to_string(),
            }),
        }
    }

    /// Identifies a model's weights and options without reading all of them: a hash (FNV-1a, 64 bits) of the spec and, for each
    /// stored tensor, of its name, type, shape and 4 KiB from its start, middle and end.
    pub fn fingerprint(&self) -> String {
        const PIECE: usize = 4096;
        let mut seen = format!("{:?}", self.spec).into_bytes();
        for stored in self.store.tensors() {
            seen.extend(format!("{} {} {:?}", stored.name, stored.kind, stored.shape).bytes());
            let Some(data) = self.store.data(stored, None) else { continue };
            let bytes = data.bytes();
            let piece = PIECE.min(bytes.len());
            for at in [0, (bytes.len() - piece) / 2, bytes.len() - piece] {
                seen.extend(&bytes[at..at + piece]);
            }
        }
        format!("{:016x}", crate::hash::fnv1a(seen.into_iter()))
    }

    /// A tensor that the model must have. A matrix quantised by MLX is converted with [`AffineTensor::to_tensor`].
    ///
    /// # Errors
    /// If the tensor is missing, has another shape than [`ModelSpec::shape`], or an unsupported type.
    pub fn tensor(&self, role: TensorRole) -> Result<Tensor, LoadError> {
        Ok(self.need(role)?.into_tensor())
    }

    /// A tensor, if the model has it. A tied output head is `None`.
    ///
    /// # Errors
    /// If the tensor has another shape than [`ModelSpec::shape`], or an unsupported type.
    pub fn find(&self, role: TensorRole) -> Result<Option<Tensor>, LoadError> {
        Ok(self.locate(role)?.map(FoundTensor::into_tensor))
    }

    /// A matrix quantised by MLX, as stored; `None` if it is not.
    ///
    /// # Errors
    /// As [`Model::tensor`].
    pub fn affine(&self, role: TensorRole) -> Result<Option<AffineTensor>, LoadError> {
        if self.format != Format::Mlx {
            return Ok(None);
        }
        Ok(match self.need(role)? {
            FoundTensor::Affine(affine) => Some(affine),
            FoundTensor::Plain(_) | FoundTensor::Fused(_) => None,
        })
    }

    fn need(&self, role: TensorRole) -> Result<FoundTensor, LoadError> {
        self.locate(role)?.ok_or_else(|| LoadError::MissingTensor {
            path: self.path.clone(),
            tensor: self.usual_name(role),
            expected: self.spec.shape(role),
        })
    }

    fn locate(&self, role: TensorRole) -> Result<Option<FoundTensor>, LoadError> {
        if role == TensorRole::Output && self.spec.tied_embeddings {
            return Ok(None);
        }
        for place in self.places(role) {
            let (name, plane) = match &place {
                TensorLocation::Whole(name) => (name, None),
                TensorLocation::Plane(name, index) => (name, Some(*index)),
                TensorLocation::Fused(fused) => match self.locate_fused(role, fused)? {
                    Some(found) => return Ok(Some(FoundTensor::Fused(found))),
                    None => continue,
                },
            };
            let Some(stored) = self.store.get(name) else { continue };
            if let Some(affine) = self.locate_affine(role, stored, plane)? {
                return Ok(Some(FoundTensor::Affine(affine)));
            }
            let shape = self.spec.shape(role);
            // GGUF files store a matrix of one row as a vector
            let as_vector = shape[0] == 1 && stored.shape == shape[1..];
            self.expect_shape(stored, plane, if as_vector { shape[1..].to_vec() } else { shape })?;
            let tensor = match plane {
                None => self.store.tensor(stored)?,
                Some(index) => self.store.plane(stored, index)?,
            };
            let offset = match self.format {
                Format::Gguf => 0.0,
                Format::SafeTensors | Format::Mlx => names::hugging_face_offset(role, self.spec.architecture),
            };
            return Ok(Some(FoundTensor::Plain(if offset == 0.0 { tensor } else { tensor.plus(offset) })));
        }
        Ok(None)
    }

    /// Part of a tensor that holds all experts.
    fn locate_fused(&self, role: TensorRole, at: &FusedLocation) -> Result<Option<FusedTensor>, LoadError> {
        let shape = self.spec.shape(role);
        let (outputs, cols) = (at.outputs.of(shape[0]), shape.get(1).copied());
        let plane = |stored: &Stored, shape: Vec<usize>| {
            self.expect_shape(stored, Some(at.expert), shape)?;
            self.store.data(stored, Some(at.expert)).ok_or_else(|| self.wrong_shape(stored, Vec::new()))
        };
        let stored = if let Some(stored) = self.store.get(&at.name) {
            let data = plane(stored, cols.into_iter().chain([outputs]).collect())?;
            StoredExpert::Floats(self.store.dtype(stored)?, data)
        } else {
            let (Some(blocks), Some(cols)) = (self.store.get(&format!("{}_blocks", at.name)), cols) else {
                return Ok(None);
            };
            let name = format!("{}_scales", at.name);
            let scales = self.store.get(&name).ok_or_else(|| LoadError::MissingTensor {
                path: self.path.clone(),
                tensor: name.clone(),
                expected: blocks.shape[..blocks.shape.len().min(3)].to_vec(),
            })?;
            for stored in [blocks, scales] {
                if stored.kind != StoredType::Other("u8".to_owned()) || !cols.is_multiple_of(32) {
                    return Err(LoadError::UnsupportedType {
                        path: self.store.path_of(stored).to_owned(),
                        tensor: stored.name.clone(),
                        found: format!("{}, for rows of {cols} values", stored.kind),
                        runs: "u8 and rows of whole blocks of 32".to_owned(),
                    });
                }
            }
            let in_row = cols / 32;
            StoredExpert::Mxfp4 {
                blocks: plane(blocks, vec![outputs, in_row, 16])?,
                scales: plane(scales, vec![outputs, in_row])?,
            }
        };
        let name = format!("{}[{}]", at.name, at.expert);
        Ok(Some(FusedTensor { name, shape, outputs: at.outputs, stored }))
    }

    /// The matrix with the codes `stored`, if there are scales for it.
    fn locate_affine(
        &self,
        role: TensorRole,
        stored: &Stored,
        plane: Option<usize>,
    ) -> Result<Option<AffineTensor>, LoadError> {
        let (Some(quantization), Some(module)) = (&self.quantization, stored.name.strip_suffix(".weight"))
        else {
            return Ok(None);
        };
        let Some(scales) = self.store.get(&format!("{module}.scales")) else { return Ok(None) };
        let shape = self.spec.shape(role);
        let missing = |tensor: String| LoadError::MissingTensor {
            path: self.path.clone(),
            tensor,
            expected: scales.shape.clone(),
        };
        let biases = format!("{module}.biases");
        let biases = self.store.get(&biases).ok_or_else(|| missing(biases.clone()))?;
        let affine = quantization.of(module);
        let &[rows, cols] = shape.as_slice() else { return Err(self.wrong_shape(stored, shape)) };
        // rows of whole groups also are rows of whole words
        if stored.kind != StoredType::Other("u32".to_owned()) || cols % affine.group_size != 0 {
            return Err(LoadError::UnsupportedType {
                path: self.store.path_of(stored).to_owned(),
                tensor: stored.name.clone(),
                found: format!("{} with scales, for rows of {cols} values", stored.kind),
                runs: format!("u32 and rows of whole groups of {}", affine.group_size),
            });
        }
        self.expect_shape(stored, plane, vec![rows, cols * affine.bits / 32])?;
        let per_group = |stored: &Stored| {
            self.expect_shape(stored, plane, vec![rows, cols / affine.group_size])?;
            match plane {
                None => self.store.tensor(stored),
                Some(index) => self.store.plane(stored, index),
            }
        };
        let (scales, biases) = (per_group(scales)?, per_group(biases)?);
        let codes = self.store.data(stored, plane).ok_or_else(|| missing(stored.name.clone()))?;
        Ok(Some(AffineTensor { name: stored.name.clone(), affine, shape, scales, biases, codes }))
    }

    /// Rejects a tensor, or a tensor of planes, with another shape.
    fn expect_shape(
        &self,
        stored: &Stored,
        plane: Option<usize>,
        mut expected: Vec<usize>,
    ) -> Result<(), LoadError> {
        if plane.is_some() {
            expected.insert(0, self.spec.moe.as_ref().map_or(0, |moe| moe.experts));
        }
        match stored.shape == expected && plane.is_none_or(|index| index < expected[0]) {
            true => Ok(()),
            false => Err(self.wrong_shape(stored, expected)),
        }
    }

    fn places(&self, role: TensorRole) -> Vec<TensorLocation> {
        match self.format {
            Format::Gguf => names::gguf(role, self.spec.architecture),
            Format::SafeTensors | Format::Mlx => names::folder(role, self.spec.architecture),
        }
    }

    fn usual_name(&self, role: TensorRole) -> String {
        match self.places(role).swap_remove(0) {
            TensorLocation::Whole(name) => name,
            TensorLocation::Plane(name, index) => format!("{name}[{index}]"),
            TensorLocation::Fused(fused) => fused.name,
        }
    }

    fn wrong_shape(&self, stored: &Stored, expected: Vec<usize>) -> LoadError {
        LoadError::WrongShape {
            path: self.store.path_of(stored).to_owned(),
            tensor: stored.name.clone(),
            expected,
            found: stored.shape.clone(),
        }
    }

    /// Checks that every tensor of the model is present, with the right shape and a supported type. Reads no weights.
    ///
    /// # Errors
    /// For the first tensor that is not.
    pub fn check(&self) -> Result<(), LoadError> {
        self.spec.roles().try_for_each(|role| self.need(role).map(drop))
    }

    /// Drops all layers except the first `layers`, which leaves a fast and inaccurate model.
    pub fn keep_layers(&mut self, layers: usize) {
        self.spec.layers = self.spec.layers.min(layers);
        self.spec.windows.truncate(layers);
    }

    /// The folder of a Hugging Face model, which also contains the tokenizer's files.
    pub fn folder(&self) -> Option<&Path> {
        (self.format != Format::Gguf).then_some(self.path.as_path())
    }

    /// The files with weights, in order.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.store.parts().iter().map(|part| part.path.as_path())
    }

    /// All stored tensors in file order, including unsupported types.
    pub fn tensors(&self) -> Vec<TensorInfo> {
        self.store.tensors().iter().map(TensorInfo::from).collect()
    }

    /// Bytes of all stored tensors.
    pub fn weight_bytes(&self) -> u64 {
        self.store.tensors().iter().filter_map(|t| t.range.as_ref()).map(|r| r.len() as u64).sum()
    }

    /// The number of parameters, as in "7B".
    pub fn parameters(&self) -> u64 {
        if self.format == Format::Mlx {
            // the stored tensors are codes, scales and biases
            return self
                .spec
                .roles()
                .map(|role| self.spec.shape(role).iter().product::<usize>() as u64)
                .sum();
        }
        // No overflow: each tensor was checked against the file's size when it was opened.
        self.store.tensors().iter().map(|t| t.shape.iter().product::<usize>() as u64).sum()
    }
}
