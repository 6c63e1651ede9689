//! Tells the crate which Python it is built for (`cfg(Py_3_12)`, `cfg(Py_GIL_DISABLED)`), and the
//! linker what `src/bindings/ffi/ending.rs` is for.

use std::env;

const ENDING: &str = "src/bindings/ffi/ending.rs";

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
    println!("cargo::rustc-check-cfg=cfg(threads_unwind)");
    println!("cargo::rerun-if-changed={ENDING}");
    // From 3.14 on CPython ends no thread. Apple's C library unwinds none, and its linker has no
    // such option.
    let python = pyo3_build_config::get().version();
    let is_apple = env::var("CARGO_CFG_TARGET_VENDOR").is_ok_and(|vendor| vendor == "apple");
    if is_apple || (python.major, python.minor) >= (3, 14) {
        return;
    }
    println!("cargo::rustc-cfg=threads_unwind");
    let text = std::fs::read_to_string(ENDING).expect("a source of this package");
    let list = text.split_once("\nstop_in! {").expect("the list").1;
    for line in list.lines() {
        let function = line.trim_start().strip_prefix("fn ");
        if let Some((name, _)) = function.and_then(|function| function.split_once('(')) {
            println!("cargo::rustc-cdylib-link-arg=-Wl,--wrap={name}");
        }
    }
}
