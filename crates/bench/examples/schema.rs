//! Prints the JSON schema of `results.json`: `cargo run -p zonda-bench --example schema > docs/results.schema.json`.

fn main() {
    print!("{}", zonda_bench::record::schema::to_string());
}
