//! `cargo xtask public [--write]`: the public items of the crate `ipcspace`, which are the project's promise, against the list of them beside it.
//!
//! What is listed: each item that the crate exports, each public field, variant and function with its signature, and each implementation of a trait. Who changes one of
//! these changes the list in the same commit, and so sees what it is that others may rely on.
//! Missing: implementations that a derive or another crate makes of these.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::Path;

use quote::{ToTokens, quote};
use syn::{
    Attribute, Expr, ExprLit, Fields, ImplItem, Item, ItemImpl, ItemUse, Lit, Meta, MetaNameValue, TraitItem,
    UseTree, Visibility,
};

/// The list, below the repository.
const LIST: &str = "crates/ipcspace/public-items.txt";
const SOURCES: &str = "crates/ipcspace/src";

/// Compares, or writes; whether the list is right.
pub(crate) fn run(root: &Path, write: bool) -> Result<bool, Box<dyn Error>> {
    let Found { lines: now, without_example, .. } = found(root)?;
    for name in &without_example {
        println!("{name} has no example in its documentation");
    }
    if write {
        fs::write(root.join(LIST), lines(&now))?;
        return Ok(without_example.is_empty());
    }
    let text = fs::read_to_string(root.join(LIST))?;
    let listed: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    for gone in listed.difference(&now) {
        println!("- {gone}");
    }
    for new in now.difference(&listed) {
        println!("+ {new}");
    }
    let same = listed == now;
    if !same {
        println!("the public items are not those of {LIST}; `cargo xtask public --write` writes it anew");
    }
    Ok(same && without_example.is_empty())
}

fn lines(items: &BTreeSet<String>) -> String {
    items.iter().map(|item| format!("{item}\n")).collect()
}

fn found(root: &Path) -> Result<Found, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root.join(SOURCES))? {
        files.push(syn::parse_file(&fs::read_to_string(entry?.path())?)?);
    }
    Ok(Found::of(&files))
}

fn is_public(vis: &Visibility) -> bool {
    matches!(vis, Visibility::Public(_))
}

fn names(tree: &UseTree, into: &mut BTreeSet<String>) {
    match tree {
        UseTree::Path(path) => names(&path.tree, into),
        UseTree::Name(name) => drop(into.insert(name.ident.to_string())),
        UseTree::Rename(rename) => drop(into.insert(rename.rename.to_string())),
        UseTree::Group(group) => group.items.iter().for_each(|tree| names(tree, into)),
        UseTree::Glob(_) => {}
    }
}

/// Text of tokens, as people write it.
fn text(tokens: impl ToTokens) -> String {
    let text = tokens.to_token_stream().to_string();
    let replaced = [
        (" :: ", "::"),
        (" < ", "<"),
        (" > ", ">"),
        ("< ", "<"),
        (" >", ">"),
        ("& ", "&"),
        (" ,", ","),
        (" :", ":"),
        ("( ", "("),
        (" )", ")"),
        (" (", "("),
        (" ;", ";"),
        ("[ ", "["),
        (" ]", "]"),
        ("' ", "'"),
        (",)", ")"),
        (">where", "> where"),
        (":(", ": ("),
        ("? ", "?"),
        ("->", " -> "),
        ("-  >", "->"),
        ("  ", " "),
    ];
    replaced.iter().fold(text, |text, (from, to)| text.replace(from, to)).trim().to_owned()
}

#[derive(Default)]
struct Found {
    exported: BTreeSet<String>,
    /// A line for each item.
    lines: BTreeSet<String>,
    /// Those that are to have an example and don't.
    without_example: BTreeSet<String>,
}

impl Found {
    fn of(files: &[syn::File]) -> Found {
        let mut found = Found::default();
        let exports = files.iter().flat_map(|file| &file.items).filter_map(|item| match item {
            Item::Use(exported) if is_public(&exported.vis) => Some(exported),
            _ => None,
        });
        for ItemUse { tree, .. } in exports {
            names(tree, &mut found.exported);
        }
        for file in files {
            found.of_module(&file.items, "");
        }
        found
    }

    fn of_module(&mut self, items: &[Item], condition: &str) {
        for item in items {
            self.of_item(item, condition);
        }
    }

    fn add(&mut self, condition: &str, line: String) {
        self.lines.insert(format!("{line}{condition}"));
    }

    fn wants_example(&mut self, name: &syn::Ident, attributes: &[Attribute]) {
        if !has_example(attributes) {
            self.without_example.insert(name.to_string());
        }
    }

    fn has(&self, name: &impl ToString) -> bool {
        self.exported.contains(&name.to_string())
    }

    fn of_item(&mut self, item: &Item, outer: &str) {
        match item {
            Item::Mod(module) if !is_hidden(&module.attrs) => {
                if let Some((_, items)) = &module.content {
                    self.of_module(items, &condition(&module.attrs, outer));
                }
            }
            Item::Struct(of) if self.has(&of.ident) => {
                self.wants_example(&of.ident, &of.attrs);
                let (name, generics, marks) = (&of.ident, &of.generics, marks(&of.attrs));
                self.add(outer, format!("{marks}struct {}", text(quote!(#name #generics))));
                self.fields(name, &of.fields, outer);
                self.derives(&of.attrs, &text(name), outer);
            }
            Item::Enum(of) if self.has(&of.ident) => {
                self.wants_example(&of.ident, &of.attrs);
                let (name, generics, marks) = (&of.ident, &of.generics, marks(&of.attrs));
                self.add(outer, format!("{marks}enum {}", text(quote!(#name #generics))));
                for variant in &of.variants {
                    let (variant, fields) = (&variant.ident, &variant.fields);
                    self.add(outer, format!("{name}::{}", text(quote!(#variant #fields))));
                }
                self.derives(&of.attrs, &text(name), outer);
            }
            Item::Trait(of) if self.has(&of.ident) => {
                self.wants_example(&of.ident, &of.attrs);
                let (name, unsafety, bounds) = (&of.ident, &of.unsafety, &of.supertraits);
                self.add(outer, text(quote!(#unsafety trait #name: #bounds)));
                for item in &of.items {
                    if let TraitItem::Fn(function) = item {
                        self.add(outer, format!("{name}::{}", text(&function.sig)));
                    }
                }
            }
            Item::Type(of) if self.has(&of.ident) => {
                self.wants_example(&of.ident, &of.attrs);
                let (name, generics, ty) = (&of.ident, &of.generics, &of.ty);
                self.add(outer, format!("type {} = {}", text(quote!(#name #generics)), text(ty)));
            }
            Item::Macro(of) if of.attrs.iter().any(|a| a.path().is_ident("macro_export")) => {
                if let Some(name) = &of.ident {
                    self.wants_example(name, &of.attrs);
                    self.add(outer, format!("macro {name}!"));
                }
            }
            Item::Impl(of) => self.of_impl(of, &condition(&of.attrs, outer)),
            _ => {}
        }
    }

    fn fields(&mut self, of: &syn::Ident, fields: &Fields, condition: &str) {
        for field in fields.iter().filter(|field| is_public(&field.vis)) {
            let (name, ty) = (&field.ident, &field.ty);
            self.add(condition, format!("{of}.{}", text(quote!(#name: #ty))));
        }
    }

    fn derives(&mut self, attributes: &[Attribute], of: &str, condition: &str) {
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("derive")) {
            let Meta::List(list) = &attribute.meta else { continue };
            for derived in list.tokens.to_string().split(',') {
                self.add(condition, format!("impl {} for {of}", derived.trim()));
            }
        }
    }

    fn of_impl(&mut self, of: &ItemImpl, condition: &str) {
        let (ty, generics, unsafety) = (&of.self_ty, &of.generics, &of.unsafety);
        let own = text(ty);
        let head = own.split('<').next().unwrap_or_default().to_owned();
        if let Some((_, of_trait, _)) = &of.trait_ {
            // Of what this crate has, or by a trait that it has.
            let by = of_trait.segments.last().is_some_and(|last| self.has(&last.ident));
            if self.has(&head) || by || own.contains("io::Error") {
                let (unsafety, generics, of_trait) = (text(unsafety), text(generics), text(of_trait));
                let line = format!("{unsafety} impl{generics} {of_trait} for {own}");
                self.add(condition, line.trim_start().to_owned());
            }
            return;
        }
        if !self.has(&head) {
            return;
        }
        for item in &of.items {
            match item {
                ImplItem::Fn(function) if is_public(&function.vis) && !is_hidden(&function.attrs) => {
                    self.add(condition, format!("{own}::{}", text(&function.sig)));
                }
                ImplItem::Const(constant) if is_public(&constant.vis) => {
                    let (name, ty) = (&constant.ident, &constant.ty);
                    self.add(condition, format!("{own}::{}", text(quote!(const #name: #ty))));
                }
                _ => {}
            }
        }
    }
}

fn is_hidden(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|a| {
        a.path().is_ident("doc") && matches!(&a.meta, Meta::List(list) if list.tokens.to_string() == "hidden")
            || a.path().is_ident("cfg") && text(&a.meta).contains("test")
    })
}

/// Whether the documentation has code that is run: not only some that is to be refused.
fn has_example(attributes: &[Attribute]) -> bool {
    let mut inside = false;
    attributes.iter().filter(|attribute| attribute.path().is_ident("doc")).any(|attribute| {
        let Meta::NameValue(MetaNameValue { value: Expr::Lit(ExprLit { lit: Lit::Str(line), .. }), .. }) =
            &attribute.meta
        else {
            return false;
        };
        let fence = line.value().trim().strip_prefix("```").map(str::to_owned);
        let begins = !inside && fence.as_deref().is_some_and(|info| matches!(info, "" | "rust"));
        inside ^= fence.is_some();
        begins
    })
}

/// What a change would break as much as of the item itself.
fn marks(attributes: &[Attribute]) -> String {
    let marks = ["non_exhaustive", "must_use"].map(|mark| {
        let has = attributes.iter().any(|attribute| attribute.path().is_ident(mark));
        if has { format!("#[{mark}] ") } else { String::new() }
    });
    marks.concat()
}

/// Which feature it needs.
fn condition(attributes: &[Attribute], outer: &str) -> String {
    let conditions = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    conditions.fold(outer.to_owned(), |all, attribute| format!("{all} [{}]", text(&attribute.meta)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_public_items_are_those_of_the_list() {
        assert!(super::run(&crate::root(), false).unwrap());
    }

    #[test]
    fn a_type_without_an_example_is_named() {
        let file = syn::parse_file(
            "pub use of::{Bare, Refused, Shown, bare};
            /// ```
            /// let shown = 1;
            /// ```
            pub struct Shown;
            /// Text.
            pub enum Bare {}
            /// ```compile_fail
            /// let refused: u8 = 300;
            /// ```
            pub trait Refused {}
            struct Own;
            #[macro_export]
            macro_rules! bare { () => {} }",
        );
        let found = super::Found::of(&[file.unwrap()]);
        assert_eq!(found.without_example.into_iter().collect::<Vec<_>>(), ["Bare", "Refused", "bare"]);
    }

    #[test]
    fn what_others_rely_on_is_listed() {
        let items = super::found(&crate::root()).unwrap().lines;
        for item in [
            "struct Queue",
            "#[non_exhaustive] enum Limit",
            "Limit::MsgMax",
            "Received.len: usize",
            "impl Clone for Namespace",
            "impl AsFd for Mqueue",
            "macro shared!",
            "Namespace::fn private() -> Result<Namespace>",
        ] {
            assert!(items.contains(item), "{item}: {items:#?}");
        }
        assert!(!items.iter().any(|item| item.contains("Backend") || item.contains("raw")), "{items:#?}");
    }
}
