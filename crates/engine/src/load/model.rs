//! [`Model`]: an opened model of either format, with its spec and its tensors by role.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::affine::Quantization;
use super::derived;
use super::float8::{self, Float8, Float8Tensor};
use super::fused::{FusedLocation, FusedTensor, StoredExpert};
use super::names::{self, TensorLocation};
use super::scales;
use super::source::{Store, Stored, TensorInfo};
use super::tensor::Data;
use super::{
    AffineTensor, Format, GgufFile, LoadError, Metadata, Mla, ModelSpec, StoredType, Tensor, TensorRole,
    gguf_other, gguf_spec, hf, mistral, safetensors,
};

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
    /// Of folders with matrices of one-byte floats.
    float8: Option<Float8>,
    /// See [`Model::unsupported`].
    unsupported: Option<String>,
    /// See [`Model::skipped_tensors`].
    skipped: usize,
}

/// A part of a stored tensor.
struct Part {
    /// Of a tensor with a plane for each expert.
    plane: Option<usize>,
    /// Of the tensor or the plane.
    rows: Option<Range<usize>>,
    /// The shape of the whole tensor, outermost dimension first.
    whole: Vec<usize>,
}

/// A tensor as it is stored.
enum FoundTensor {
    Plain(Tensor),
    /// Each value is the stored one plus a number.
    Plus(Tensor, f32),
    /// A part of the projection of keys and values from their latent.
    Up(Tensor, fn(&Tensor, &Mla) -> Tensor, Mla),
    Affine(AffineTensor),
    Float8(Float8Tensor),
    /// A part of such a projection of keys and values.
    UpFloat8(Float8Tensor, fn(&Tensor, &Mla) -> Tensor, Mla),
    Fused(FusedTensor),
}

impl FoundTensor {
    /// Reads and converts the tensor, unless it is used as stored. The pages of what was converted are released.
    ///
    /// # Errors
    /// As [`Tensor::check_file`].
    fn into_tensor(self) -> Result<Tensor, LoadError> {
        self.data().into_iter().try_for_each(Data::check_file)?;
        let converted = match self {
            FoundTensor::Plain(tensor) => return Ok(tensor),
            FoundTensor::Plus(ref tensor, offset) => tensor.plus(offset),
            FoundTensor::Up(ref both, part, ref mla) => part(both, mla),
            FoundTensor::Affine(ref affine) => affine.to_tensor(),
            FoundTensor::Float8(ref matrix) => matrix.to_tensor(),
            FoundTensor::UpFloat8(ref both, part, ref mla) => part(&both.to_tensor(), mla),
            FoundTensor::Fused(ref fused) => fused.to_tensor(),
        };
        self.release();
        Ok(converted)
    }

    /// Releases the memory of the mapped files' pages with the tensor.
    fn release(&self) {
        self.data().into_iter().for_each(Data::release);
    }

    /// The stored bytes that it consists of.
    fn data(&self) -> Vec<&Data> {
        match self {
            FoundTensor::Plain(tensor) | FoundTensor::Plus(tensor, _) | FoundTensor::Up(tensor, ..) => {
                vec![tensor.data()]
            }
            FoundTensor::Affine(affine) => vec![&affine.codes, affine.scales.data(), affine.biases.data()],
            FoundTensor::Float8(matrix) | FoundTensor::UpFloat8(matrix, ..) => matrix.data(),
            FoundTensor::Fused(fused) => fused.stored.data(),
        }
    }
}

/// Drops the layers behind the last one, which predict further tokens.
fn skip_predicted(path: &Path, store: &mut Store, prefix: &str, layers: Range<usize>) {
    if layers.is_empty() {
        return;
    }
    let skipped = store.drop_layers(prefix, layers);
    if skipped > 0 {
        tracing::info!(path = %path.display(), tensors = skipped, "the layers that predict further tokens (MTP) are skipped");
    }
}

impl Model {
    /// Opens a `.gguf` file (any part of a split one) or a folder with `config.json` and SafeTensors, or with
    /// Mistral's own `params.json`.
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
            if !path.join("config.json").is_file() && !mistral::is_in(path) {
                return Err(not_a_model("it is a folder without config.json"));
            }
            return Model::open_folder(path);
        }
        match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors" | "json") => Err(not_a_model("it is one file of a folder")),
            _ => Model::open_gguf(path),
        }
    }

    /// As [`Model::open`], but a well-formed GGUF file of an architecture, option or variant that the forward pass of this
    /// workspace lacks is opened, too, for backends with a forward pass of their own: [`Model::unsupported`] says why. Its spec
    /// says how large it is and has [`super::Architecture::Other`]; its tensors have no roles.
    ///
    /// # Errors
    /// As [`Model::open`]; also if the keys that every architecture has are missing or out of range.
    pub fn open_any(path: &Path) -> Result<Model, LoadError> {
        let why = match Model::open(path) {
            Err(error) if error.is_of_forward() && !path.is_dir() => error.to_string(),
            other => return other,
        };
        let GgufFile { metadata, store, .. } = GgufFile::open(path)?;
        let spec = gguf_other::read(path, &metadata, &store)?;
        let (path, format, unsupported) = (path.to_owned(), Format::Gguf, Some(why));
        let (quantization, float8, skipped) = (None, None, 0);
        Ok(Model { path, format, spec, metadata, store, quantization, float8, unsupported, skipped })
    }

    /// Why the forward pass of this workspace can't run the model; `None` unless [`Model::open_any`] opened it and
    /// [`Model::open`] would refuse it.
    pub fn unsupported(&self) -> Option<&str> {
        self.unsupported.as_deref()
    }

    fn open_gguf(path: &Path) -> Result<Model, LoadError> {
        let file = GgufFile::open(path)?;
        if file.store.tensors().is_empty() {
            return Err(LoadError::NoTensors { path: path.to_owned() });
        }
        let spec = gguf_spec::read(path, &file.metadata, &file.store)?;
        let (path, format, metadata, mut store) = (path.to_owned(), Format::Gguf, file.metadata, file.store);
        let predicted = gguf_spec::predicted_layers(&path, &metadata)?;
        skip_predicted(&path, &mut store, "blk.", spec.layers..spec.layers + predicted);
        let (quantization, float8, unsupported, skipped) = (None, None, None, 0);
        let model = Model { path, format, spec, metadata, store, quantization, float8, unsupported, skipped };
        model.with_known_tensors(names::knows_gguf)
    }

    fn open_folder(path: &Path) -> Result<Model, LoadError> {
        let own = mistral::is_in(path);
        let config = match own {
            true => mistral::read(&path.join(mistral::PARAMS))?,
            false => hf::read(&path.join("config.json"))?,
        };
        let stem = if own { mistral::STEM } else { "model" };
        if safetensors::has_both(path, stem) {
            // As in `transformers`, a single file goes before an index, here provided that it has the whole model.
            let tied = config.spec.tied_embeddings;
            let single = safetensors::open_single(path, stem)
                .and_then(|store| Model::folder_of(path, own, config.clone(), store))
                .and_then(|model| model.check().map(|()| model));
            if let Some(model) = single.ok().filter(|model| model.spec.tied_embeddings == tied) {
                tracing::info!(path = %path.display(), "the file of all weights is complete; the index beside it is not used");
                return Ok(model);
            }
        }
        Model::folder_of(path, own, config, safetensors::open(path, stem)?)
    }

    /// The model of a folder (in Mistral's own layout or Hugging Face's) with these stored tensors.
    fn folder_of(path: &Path, own: bool, config: hf::Config, mut store: Store) -> Result<Model, LoadError> {
        let hf::Config { mut spec, quantization, float8 } = config;
        let skipped = match own {
            true => mistral::rename(&mut store, spec.architecture),
            false => store.keep_text_part(),
        };
        if skipped > 0 {
            tracing::info!(path = %path.display(), tensors = skipped, "only the text part is used; the image parts are skipped");
        }
        if spec.architecture.predicts() {
            skip_predicted(path, &mut store, "model.layers.", spec.layers..usize::MAX);
        }
        let mut kinds = store.tensors().iter().map(|stored| &stored.kind);
        let float8 = float8.or_else(|| kinds.any(float8::is_stored_as).then_some(Float8::PER_MATRIX));
        let scales =
            if float8.is_some() { store.retain(|stored| !float8::is_unused(&stored.name)) } else { 0 };
        if scales > 0 {
            tracing::info!(path = %path.display(), tensors = scales, "scales of activations are not used: only weights are rounded");
        }
        let head = names::hugging_face(TensorRole::Output, spec.architecture);
        spec.tied_embeddings |= store.get(&head).is_none();
        let (format, known): (_, fn(&str, &ModelSpec) -> bool) = match quantization {
            Some(_) => (Format::Mlx, names::knows_mlx),
            None if float8.is_some() => (Format::SafeTensors, names::knows_float8),
            None => (Format::SafeTensors, names::knows_hugging_face),
        };
        let (path, metadata) = (path.to_owned(), Metadata::default());
        let unsupported = None;
        let model = Model { path, format, spec, metadata, store, quantization, float8, unsupported, skipped };
        model.with_known_tensors(known)
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
            let Some(data) = self.store.data(stored, None, None) else { continue };
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
    /// If the tensor is missing, has another shape than [`ModelSpec::shape`], or an unsupported type; if its file was cut.
    pub fn tensor(&self, role: TensorRole) -> Result<Tensor, LoadError> {
        self.need(role)?.into_tensor()
    }

    /// A tensor, if the model has it. A tied output head is `None`.
    ///
    /// # Errors
    /// If the tensor has another shape than [`ModelSpec::shape`], or an unsupported type; if its file was cut.
    pub fn find(&self, role: TensorRole) -> Result<Option<Tensor>, LoadError> {
        self.locate(role)?.map(FoundTensor::into_tensor).transpose()
    }

    /// Releases the memory of the mapped files' pages with a tensor, without reading it.
    pub fn release(&self, role: TensorRole) {
        if let Ok(Some(found)) = self.locate(role) {
            found.release();
        }
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
            _ => None,
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
        if let Some(why) = &self.unsupported {
            return Err(LoadError::OtherForward { why: why.clone() });
        }
        if role == TensorRole::Output && self.spec.tied_embeddings {
            return Ok(None);
        }
        let mut misfit = None;
        for (i, place) in self.places(role).into_iter().enumerate() {
            if let TensorLocation::Fused(fused) = &place {
                match self.locate_fused(role, fused)? {
                    Some(found) => return Ok(Some(FoundTensor::Fused(found))),
                    None => continue,
                }
            }
            let Some(stored) = self.store.get(place.name()) else { continue };
            match place {
                TensorLocation::Keys(_) => return self.up(stored, derived::key_up).map(Some),
                TensorLocation::Values(_) => return self.up(stored, derived::value_up).map(Some),
                _ => {}
            }
            let part = self.part(role, &place);
            if let Some(matrix) = self.locate_float8(stored, &part)? {
                return Ok(Some(FoundTensor::Float8(matrix)));
            }
            if let Some(affine) = self.locate_affine(role, stored, &part)? {
                return Ok(Some(FoundTensor::Affine(affine)));
            }
            // GGUF files store a matrix of one row as a vector
            let as_vector = part.whole[0] == 1 && stored.shape == part.whole[1..];
            if let Err(error) = self.expect_shape(stored, &part, None)
                && !as_vector
            {
                misfit = misfit.or((i == 0 || part.rows.is_none()).then_some(error));
                continue;
            }
            let tensor = self.store.part(stored, part.plane, part.rows)?;
            if self.format == Format::Gguf && scales::scalable(role) {
                let scale = scales::scale_of(&self.store, stored, part.plane)?;
                return Ok(Some(FoundTensor::Plain(tensor.scaled(scale))));
            }
            let offset = match self.format {
                Format::Gguf => 0.0,
                Format::SafeTensors | Format::Mlx => names::hugging_face_offset(role, self.spec.architecture),
            };
            return Ok(Some(match offset {
                0.0 => FoundTensor::Plain(tensor),
                offset => FoundTensor::Plus(tensor, offset),
            }));
        }
        misfit.map_or(Ok(None), Err)
    }

    /// Which part of a stored tensor a location is.
    fn part(&self, role: TensorRole, place: &TensorLocation) -> Part {
        let shape = self.spec.shape(role);
        let rows = shape[0];
        let (plane, roles) = match place {
            TensorLocation::Plane(_, index) => (Some(*index), None),
            TensorLocation::Rows { plane, roles, .. } => (*plane, Some(roles)),
            _ => (None, None),
        };
        let mut part = Part { plane, rows: None, whole: shape };
        if let Some(roles) = roles {
            let rows_of = |&role: &TensorRole| self.spec.shape(role)[0];
            let before: usize = roles.iter().take_while(|&&other| other != role).map(rows_of).sum();
            part.rows = Some(before..before + rows);
            part.whole[0] = roles.iter().map(rows_of).sum();
        }
        if plane.is_some() {
            part.whole.insert(0, self.spec.moe.as_ref().map_or(0, |moe| moe.experts));
        }
        part
    }

    /// A part of the projection of keys and values from their latent.
    fn up(&self, stored: &Stored, part: fn(&Tensor, &Mla) -> Tensor) -> Result<FoundTensor, LoadError> {
        let Some(mla) = &self.spec.extras.mla else { return Err(self.wrong_shape(stored, vec![])) };
        let whole = vec![self.spec.heads * (mla.nope + mla.value), mla.kv_rank];
        let whole = Part { plane: None, rows: None, whole };
        if let Some(both) = self.locate_float8(stored, &whole)? {
            return Ok(FoundTensor::UpFloat8(both, part, mla.clone()));
        }
        self.expect_shape(stored, &whole, None)?;
        Ok(FoundTensor::Up(self.store.part(stored, None, None)?, part, mla.clone()))
    }

    /// Part of a tensor that holds all experts.
    fn locate_fused(&self, role: TensorRole, at: &FusedLocation) -> Result<Option<FusedTensor>, LoadError> {
        let shape = self.spec.shape(role);
        let (outputs, cols) = (at.outputs.of(shape[0]), shape.get(1).copied());
        let experts = self.spec.moe.as_ref().map_or(0, |moe| moe.experts);
        let plane = |stored: &Stored, mut whole: Vec<usize>| {
            whole.insert(0, experts);
            self.expect_shape(stored, &Part { plane: Some(at.expert), rows: None, whole }, None)?;
            let data = self.store.data(stored, Some(at.expert), None);
            data.ok_or_else(|| self.wrong_shape(stored, Vec::new()))
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

    /// The matrix with the codes `stored`, if these are one-byte floats.
    fn locate_float8(&self, stored: &Stored, part: &Part) -> Result<Option<Float8Tensor>, LoadError> {
        let Some(form) = &self.float8 else { return Ok(None) };
        form.locate(&self.store, stored, &part.whole, part.plane, part.rows.clone())
    }

    /// The matrix with the codes `stored`, if there are scales for it.
    fn locate_affine(
        &self,
        role: TensorRole,
        stored: &Stored,
        part: &Part,
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
        let &[_, cols] = shape.as_slice() else { return Err(self.wrong_shape(stored, shape)) };
        // Rows of whole groups are also rows of whole words.
        if stored.kind != StoredType::Other("u32".to_owned()) || cols % affine.group_size != 0 {
            return Err(LoadError::UnsupportedType {
                path: self.store.path_of(stored).to_owned(),
                tensor: stored.name.clone(),
                found: format!("{} with scales, for rows of {cols} values", stored.kind),
                runs: format!("u32 and rows of whole groups of {}", affine.group_size),
            });
        }
        self.expect_shape(stored, part, Some(cols * affine.bits / 32))?;
        let per_group = |stored: &Stored| {
            self.expect_shape(stored, part, Some(cols / affine.group_size))?;
            self.store.part(stored, part.plane, part.rows.clone())
        };
        let (scales, biases) = (per_group(scales)?, per_group(biases)?);
        let codes = self.store.data(stored, part.plane, part.rows.clone());
        let codes = codes.ok_or_else(|| missing(stored.name.clone()))?;
        Ok(Some(AffineTensor { name: stored.name.clone(), affine, shape, scales, biases, codes }))
    }

    /// Rejects a tensor with another shape than that of the whole of `part`, or than that with rows of `cols` values.
    fn expect_shape(&self, stored: &Stored, part: &Part, cols: Option<usize>) -> Result<(), LoadError> {
        let mut expected = part.whole.clone();
        expected.last_mut().into_iter().zip(cols).for_each(|(last, cols)| *last = cols);
        match stored.shape == expected && part.plane.is_none_or(|index| index < expected[0]) {
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
            TensorLocation::Plane(name, index) | TensorLocation::Rows { name, plane: Some(index), .. } => {
                format!("{name}[{index}]")
            }
            place => place.name().to_owned(),
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
    /// For the first tensor that is not; also if [`Model::unsupported`].
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

    /// How many tensors of the folder are left out, because they belong to the parts of a model that read images.
    pub fn skipped_tensors(&self) -> usize {
        self.skipped
    }

    /// Bytes of all stored tensors.
    pub fn weight_bytes(&self) -> u64 {
        self.store.tensors().iter().filter_map(|t| t.range.as_ref()).map(|r| r.len() as u64).sum()
    }

    /// The number of parameters, as in "7B".
    pub fn parameters(&self) -> u64 {
        // Tensors of other types are codes and scales in folders.
        let coded = |stored: &Stored| stored.kind.runs().is_none();
        if self.format != Format::Gguf && self.store.tensors().iter().any(coded) {
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
