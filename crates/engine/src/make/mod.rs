//! Writing models: GGUF and SafeTensors writers, conversion between them, seeded synthetic models.
