//! Tells the program where MLX's library is, if it is built with it: the library crate can't say that for its users.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(folder) = std::env::var("DEP_ZONDA_MLX_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
