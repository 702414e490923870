//! Mutants put into the source side by side, each behind a number: one build has them all, and the number in
//! `ANNULUS_MUTANT` chooses which one is alive ("mutant schemata", Untch, Offutt and Harrold 1993).
//!
//! What is edited is the text, so that lines stay where they are and an error of the compiler names the mutant that it is in.

use super::Mutant;
use crate::Result;
use proc_macro2::LineColumn;
use std::collections::HashMap;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// The switch, as a module of the crate. Where `ANNULUS_MUTANTS_REACHED` names a file, the numbers of the mutants that would
/// have made a difference, as far as can be seen where they are, are noted in it.
pub const SWITCH: &str = r#"
#[doc(hidden)]
pub mod mutants {
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Mutex, OnceLock};

    struct Notes {
        file: Mutex<std::fs::File>,
        noted: Vec<AtomicBool>,
    }

    fn notes() -> Option<&'static Notes> {
        static NOTES: OnceLock<Option<Notes>> = OnceLock::new();
        let open = || {
            let path = std::env::var_os("ANNULUS_MUTANTS_REACHED")?;
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path).ok()?;
            let noted = (0..10_000).map(|_| AtomicBool::new(false)).collect();
            Some(Notes { file: Mutex::new(file), noted })
        };
        NOTES.get_or_init(open).as_ref()
    }

    /// The mutant that is alive.
    pub fn on() -> u32 {
        static ON: OnceLock<u32> = OnceLock::new();
        *ON.get_or_init(|| std::env::var("ANNULUS_MUTANT").ok().and_then(|n| n.parse().ok()).unwrap_or(0))
    }
    pub fn noting() -> bool {
        notes().is_some()
    }
    pub fn note(number: u32) {
        let Some(notes) = notes() else { return };
        if notes.noted.get(number as usize).is_some_and(|noted| !noted.swap(true, Ordering::Relaxed))
            && let Ok(mut file) = notes.file.lock()
        {
            let _ = file.write_all(format!("{number}\n").as_bytes());
        }
    }
    pub fn at(numbers: &[u32]) -> u32 {
        numbers.iter().for_each(|number| note(*number));
        on()
    }
    pub fn is(number: u32) -> bool {
        note(number);
        on() == number
    }
}
"#;

struct Edit {
    at: usize,
    /// How many bytes are replaced.
    cut: usize,
    text: String,
    /// Among those at one place: ends before beginnings, inner ends first, outer beginnings first.
    rank: (u8, i64, i64),
}

/// One file in the making.
struct Placer<'a> {
    source: &'a str,
    lines: Vec<usize>,
    /// By where they are.
    mutants: HashMap<(&'a str, usize), Vec<&'a Mutant>>,
    edits: Vec<Edit>,
    placed: Vec<u32>,
    order: i64,
}

/// The text with all mutants in it that can be put there, and their numbers.
pub fn place(source: &str, mutants: &[&Mutant]) -> Result<(String, Vec<u32>)> {
    let file = syn::parse_file(source)?;
    let starts = source.char_indices().filter(|(_, c)| *c == '\n').map(|(at, _)| at + 1);
    let mut placer = Placer {
        source,
        lines: [0].into_iter().chain(starts).collect(),
        mutants: HashMap::new(),
        edits: Vec::new(),
        placed: Vec::new(),
        order: 0,
    };
    for mutant in mutants {
        let at = placer.offset(mutant.start.0, mutant.start.1 - 1);
        placer.mutants.entry((&mutant.genre, at)).or_default().push(mutant);
    }
    placer.bodies();
    placer.visit_file(&file);
    let Placer { mut edits, mut placed, .. } = placer;
    edits.sort_by_key(|edit| (edit.at, edit.rank));
    let (mut text, mut done) = (String::new(), 0);
    for edit in &edits {
        text += source.get(done..edit.at).ok_or("two mutants lie across each other")?;
        text += &edit.text;
        done = edit.at + edit.cut;
    }
    text += &source[done..];
    placed.sort_unstable();
    Ok((text, placed))
}

impl<'a> Placer<'a> {
    fn offset(&self, line: usize, column: usize) -> usize {
        let start = self.lines[line - 1];
        let rest = &self.source[start..];
        start + rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at)
    }

    fn at(&self, place: LineColumn) -> usize {
        self.offset(place.line, place.column)
    }

    fn range(&self, node: &impl Spanned) -> (usize, usize) {
        let span = node.span();
        (self.at(span.start()), self.at(span.end()))
    }

    fn text(&self, node: &impl Spanned) -> &'a str {
        let (start, end) = self.range(node);
        &self.source[start..end]
    }

    fn take(&mut self, genre: &'static str, at: usize) -> Vec<&'a Mutant> {
        let taken = self.mutants.remove(&(genre, at)).unwrap_or_default();
        self.placed.extend(taken.iter().map(|mutant| mutant.number));
        taken
    }

    /// Puts text around a piece of source.
    fn wrap(&mut self, (start, end): (usize, usize), before: String, after: String) {
        self.order += 1;
        let order = self.order;
        self.edits.push(Edit { at: start, cut: 0, text: before, rank: (1, -(end as i64), order) });
        self.edits.push(Edit { at: end, cut: 0, text: after, rank: (0, -(start as i64), -order) });
    }

    /// Puts text in place of a token.
    fn swap(&mut self, (start, end): (usize, usize), text: String) {
        self.edits.push(Edit { at: start, cut: end - start, text, rank: (2, 0, 0) });
    }

    /// Values in the place of what functions return.
    fn bodies(&mut self) {
        let places: Vec<usize> =
            self.mutants.keys().filter(|(genre, _)| *genre == "FnValue").map(|(_, at)| *at).collect();
        for at in places {
            let mut text = String::new();
            for mutant in self.take("FnValue", at) {
                text += &format!(
                    "if crate::mutants::is({}) {{ return {}; }} ",
                    mutant.number, mutant.replacement
                );
            }
            self.edits.push(Edit { at, cut: 0, text, rank: (1, i64::MIN, 0) });
        }
    }

    fn binary(&mut self, node: &'a syn::ExprBinary) {
        // A pattern that is matched between them must stay where it is.
        if binds(&node.left) || binds(&node.right) {
            return;
        }
        let operator = self.range(&node.op);
        let mutants = self.take("BinaryOperator", operator.0);
        if mutants.is_empty() {
            return;
        }
        let number = mutants[0].number;
        let sign = self.text(&node.op);
        let whole = (self.range(&*node.left).0, self.range(&*node.right).1);
        let numbers: String = mutants.iter().map(|m| format!("{}, ", m.number)).collect();
        let arms = |left: &str, right: &str| {
            let arm = |m: &&Mutant| format!("{} => {left} {} {right}, ", m.number, m.replacement);
            let arms: String = mutants.iter().map(arm).collect();
            format!("match crate::mutants::at(&[{numbers}]) {{ {arms}_ => {left} {sign} {right} }}")
        };
        // What a comparison would have come to is seen at once.
        let compared = || {
            let note = |m: &&Mutant| {
                format!("if (l_ {} r_) != o_ {{ crate::mutants::note({}) }} ", m.replacement, m.number)
            };
            let notes: String = mutants.iter().map(note).collect();
            let arm = |m: &&Mutant| format!("{} => l_ {} r_, ", m.number, m.replacement);
            let arms: String = mutants.iter().map(arm).collect();
            format!(
                "let o_ = l_ {sign} r_; if crate::mutants::noting() {{ {notes}}} match crate::mutants::on() {{ {arms}_ => o_ }}"
            )
        };
        match sign {
            // Both sides once, and the right one only where it is asked for.
            "&&" | "||" => {
                let test = if sign == "&&" { "!=" } else { "==" };
                self.swap(operator, format!("{{ m_ => if m_ {test} crate::mutants::is({number}) {{"));
                self.wrap(whole, "(match ".to_owned(), "} else { m_ } })".to_owned());
            }
            "==" | "!=" | "<" | "<=" | ">" | ">=" => {
                self.swap(operator, "), &(".to_owned());
                let after = format!(")) {{ (l_, r_) => {{ {} }} }})", compared());
                self.wrap(whole, "(match (&(".to_owned(), after);
            }
            _ if sign.ends_with('=') => {
                self.swap(operator, "), ".to_owned());
                let after = format!(") {{ (l_, r_) => {} }})", arms("*l_", "r_"));
                self.wrap(whole, "(match (&mut (".to_owned(), after);
            }
            _ => {
                self.swap(operator, ", ".to_owned());
                let after = format!(") {{ (l_, r_) => {} }})", arms("l_", "r_"));
                self.wrap(whole, "(match (".to_owned(), after);
            }
        }
    }
}

/// Whether a chain of `&&` has a `let` in it.
fn binds(expr: &syn::Expr) -> bool {
    match expr {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => binds(&binary.left) || binds(&binary.right),
        _ => false,
    }
}

impl<'a> Visit<'a> for Placer<'a> {
    fn visit_expr_binary(&mut self, node: &'a syn::ExprBinary) {
        self.binary(node);
        visit::visit_expr_binary(self, node);
    }

    fn visit_expr_unary(&mut self, node: &'a syn::ExprUnary) {
        let operator = self.range(&node.op);
        if let Some(mutant) = self.take("UnaryOperator", operator.0).first() {
            let sign = self.text(&node.op);
            let end = self.range(&*node.expr).1;
            self.swap(operator, String::new());
            let after = format!(
                " {{ m_ => if crate::mutants::is({}) {{ m_ }} else {{ {sign}m_ }} }})",
                mutant.number
            );
            self.wrap((operator.0, end), "(match ".to_owned(), after);
        }
        visit::visit_expr_unary(self, node);
    }

    fn visit_arm(&mut self, node: &'a syn::Arm) {
        let whole = self.range(node);
        let deleted = self.take("MatchArm", whole.0).first().map(|mutant| mutant.number);
        match &node.guard {
            Some((_, guard)) => {
                let guard = self.range(&**guard);
                let mut before = deleted.map_or(String::new(), |n| format!("!crate::mutants::is({n}) && "));
                for mutant in self.take("MatchArmGuard", guard.0) {
                    before += &format!(
                        "if crate::mutants::is({}) {{ {} }} else ",
                        mutant.number, mutant.replacement
                    );
                }
                if !before.is_empty() {
                    // An `if` is an operand only in parentheses.
                    let split = before.find("if crate").unwrap_or(before.len());
                    before.insert(split, '(');
                    self.wrap(guard, format!("{before}{{ "), " })".to_owned());
                }
            }
            None => {
                if let Some(number) = deleted {
                    let end = self.range(&node.pat).1;
                    let text = format!(" if !crate::mutants::is({number})");
                    self.edits.push(Edit { at: end, cut: 0, text, rank: (0, i64::MAX, 0) });
                }
            }
        }
        visit::visit_arm(self, node);
    }

    fn visit_expr_struct(&mut self, node: &'a syn::ExprStruct) {
        for field in &node.fields {
            let at = self.range(field).0;
            let Some(rest) = &node.rest else { continue };
            if let Some(mutant) = self.take("StructField", at).first() {
                let (name, rest) = (self.text(&field.member), self.text(&**rest));
                let name_is_value =
                    if field.colon_token.is_none() { format!("{name}: ") } else { String::new() };
                let before = format!(
                    "{name_is_value}if crate::mutants::is({}) {{ ({rest}).{name} }} else {{ ",
                    mutant.number
                );
                let value = self.range(&field.expr);
                self.wrap(value, before, " }".to_owned());
            }
        }
        visit::visit_expr_struct(self, node);
    }

    // What is computed while it is compiled cannot be switched.
    fn visit_item_const(&mut self, _: &'a syn::ItemConst) {}
    fn visit_impl_item_const(&mut self, _: &'a syn::ImplItemConst) {}
    fn visit_item_static(&mut self, _: &'a syn::ItemStatic) {}
    fn visit_type_array(&mut self, _: &'a syn::TypeArray) {}
    fn visit_variant(&mut self, _: &'a syn::Variant) {}

    fn visit_item_fn(&mut self, node: &'a syn::ItemFn) {
        if node.sig.constness.is_none() {
            visit::visit_item_fn(self, node);
        }
    }

    fn visit_impl_item_fn(&mut self, node: &'a syn::ImplItemFn) {
        if node.sig.constness.is_none() {
            visit::visit_impl_item_fn(self, node);
        }
    }
}
