//! Writers of model files: convert, quantize, imatrix, synth.
