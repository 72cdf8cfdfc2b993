//! Passes on where MLX's library is, to this crate's own tests and to programs that link it (`DEP_ZONDA_MLX_LIB`).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(folder) = std::env::var("DEP_MLX_LIB") {
        println!("cargo:mlx_lib={folder}");
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
