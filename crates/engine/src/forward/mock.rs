//! The mock backend: deterministic, for tests and as the harness's overhead floor.
