//! Sets `cfg(Py_3_12)` and `cfg(Py_GIL_DISABLED)` by the Python version, carries the docstrings of
//! the stub into the crate (`doc!("Future.cancel")`), and sets the linker option for
//! `src/bindings/ffi/ending.rs`.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

const ENDING: &str = "src/bindings/ffi/ending.rs";
const STUB: &str = "python/flask_delay/_native.pyi";

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
    carry_docstrings();
    stop_at_the_end();
}

fn carry_docstrings() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={STUB}");
    let stub = fs::read_to_string(STUB).unwrap_or_else(|error| panic!("{STUB}: {error}"));
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    fs::write(
        Path::new(&out).join("docs.rs"),
        macro_of(&docstrings(&stub)),
    )
    .unwrap_or_else(|error| panic!("{out}: {error}"));
}

fn stop_at_the_end() {
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
    let text = fs::read_to_string(ENDING).expect("a source of this package");
    let list = text.split_once("\nstop_in! {").expect("the list").1;
    for line in list.lines() {
        let function = line.trim_start().strip_prefix("fn ");
        if let Some((name, _)) = function.and_then(|function| function.split_once('(')) {
            println!("cargo::rustc-cdylib-link-arg=-Wl,--wrap={name}");
        }
    }
}

/// A macro that gives the docstring of a name, and fails the build for a name without one.
fn macro_of(docs: &[(String, String)]) -> String {
    let mut code = "macro_rules! doc {\n".to_owned();
    for (name, text) in docs {
        writeln!(code, "    ({name:?}) => {{ {text:?} }};").expect("a String takes any text");
    }
    code + "}\n"
}

/// The docstrings of a stub's classes, functions and methods by their qualified names.
///
/// Python shows no docstring for `__init__` and `__new__` of a native class, so these are appended
/// to that of the class.
fn docstrings(stub: &str) -> Vec<(String, String)> {
    let mut docs: Vec<(String, String)> = Vec::new();
    let mut class = "";
    // The definition before a possible docstring: its head has ended.
    let mut defined: Option<(usize, &str)> = None;
    let mut lines = stub.lines();
    while let Some(line) = lines.next() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if let Some(head) = text.strip_prefix("class ").or(text.strip_prefix("def ")) {
            let name = &head[..head.find(['(', ':']).unwrap_or(head.len())];
            if indent == 0 {
                class = if text.starts_with("class ") { name } else { "" };
            }
            defined = Some((indent, name));
        } else if let (Some(quoted), Some((indent, name))) = (text.strip_prefix("\"\"\""), defined)
        {
            let method = indent > 0;
            let (owner, own) = match name {
                "__init__" | "__new__" => (class, true),
                _ => ("", false),
            };
            let name = match (own, method) {
                (true, _) => owner.to_owned(),
                (false, true) => format!("{class}.{name}"),
                (false, false) => name.to_owned(),
            };
            let body = docstring(quoted, &mut lines, indent + 4);
            match docs.iter_mut().find(|(known, _)| *known == name) {
                Some((_, text)) if own => *text = format!("{text}\n\n{body}"),
                // An overload that repeats the docstring.
                Some(_) => {}
                None => docs.push((name, body)),
            }
            defined = None;
        }
    }
    docs
}

/// The docstring that begins with `first`, without its quotes and indentation.
fn docstring<'a>(first: &str, rest: &mut impl Iterator<Item = &'a str>, indent: usize) -> String {
    if let Some(text) = first.strip_suffix("\"\"\"") {
        return text.to_owned();
    }
    let mut text = first.to_owned();
    for line in rest {
        let line = line.get(indent..).unwrap_or("");
        if line == "\"\"\"" {
            break;
        }
        text.push('\n');
        text.push_str(line);
    }
    text.trim_end().to_owned()
}
