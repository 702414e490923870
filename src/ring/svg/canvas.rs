//! Shapes and text as SVG.
//!
//! Invariant: whatever text goes in, what comes out is valid XML 1.0.

use std::f64::consts::TAU;
use std::fmt::Write as _;

pub(super) const INK: &str = "#1f2733";
pub(super) const MUTED: &str = "#66707f";
pub(super) const FAINT: &str = "#e6e9ee";

/// An arc up to this part of a turn cannot be told from a line.
const LONGEST: f64 = 0.006;

/// How a piece of text stands.
#[derive(Clone, Copy)]
pub(super) struct Style {
    pub size: f64,
    pub bold: bool,
    pub colour: &'static str,
    pub anchor: &'static str,
}

pub(super) const PLAIN: Style = Style { size: 12.0, bold: false, colour: INK, anchor: "start" };
pub(super) const QUIET: Style = Style { colour: MUTED, ..PLAIN };
pub(super) const STRONG: Style = Style { bold: true, ..PLAIN };

pub(super) struct Canvas(String);

impl Canvas {
    /// An empty picture on a ground of its own, so that it can be read on a light page and on a dark one.
    pub fn new(width: f64, height: f64, title: &str) -> Canvas {
        let mut canvas = Canvas(String::new());
        canvas.put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\">\n\
             <title>{}</title>\n<rect width=\"100%\" height=\"100%\" rx=\"10\" fill=\"#ffffff\"/>\n",
            escaped(title)
        ));
        canvas
    }

    pub fn text(&mut self, x: f64, y: f64, style: Style, text: &str) {
        let weight = if style.bold { " font-weight=\"bold\"" } else { "" };
        let (size, colour, anchor) = (style.size, style.colour, style.anchor);
        self.put(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\"{weight} text-anchor=\"{anchor}\" fill=\"{colour}\">{}</text>\n",
            escaped(text)
        ));
    }

    pub fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, colour: &str) {
        self.put(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" rx=\"2\" fill=\"{colour}\"/>\n",
            width.max(0.0)
        ));
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        self.put(format_args!(
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>\n",
            from.0, from.1, to.0, to.1
        ));
    }

    /// Arcs of one colour on one circle, each from a part of the turn to another.
    pub fn arcs(&mut self, centre: f64, radius: f64, width: f64, colour: &str, arcs: &[(f64, f64)]) {
        if arcs.is_empty() {
            return;
        }
        self.put(format_args!("<path fill=\"{colour}\" d=\""));
        let (outside, inside) = (radius + width / 2.0, radius - width / 2.0);
        for (from, to) in arcs {
            let pieces = ((to - from) / LONGEST).ceil().max(1.0) as u32;
            let at = |piece: u32| from + (to - from) * f64::from(piece) / f64::from(pieces);
            self.point('M', point(centre, outside, at(0)));
            (1..=pieces).for_each(|piece| self.point('L', point(centre, outside, at(piece))));
            (0..=pieces).rev().for_each(|piece| self.point('L', point(centre, inside, at(piece))));
            self.put(format_args!("Z"));
        }
        self.put(format_args!("\"/>\n"));
    }

    fn point(&mut self, how: char, (x, y): (f64, f64)) {
        self.put(format_args!("{how}{x:.1} {y:.1}"));
    }

    pub fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.0.write_fmt(text);
    }
}

/// The point of a circle at a part of a turn, clockwise from the top.
pub(super) fn point(centre: f64, radius: f64, turn: f64) -> (f64, f64) {
    let (sin, cos) = (turn * TAU).sin_cos();
    (centre + radius * sin, centre - radius * cos)
}

/// Text that XML can hold: what it forbids altogether is replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

/// A number with its thousands apart.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A weight or share with as many digits as say something.
pub(super) fn number(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e7).contains(&value) {
        return format!("{value:.1e}");
    }
    let text = format!("{value:.if_small$}", if_small = if value < 10.0 { 2 } else { 1 });
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A name that fits into so many characters.
pub(super) fn short(name: &str, most: usize) -> String {
    match name.chars().count() > most {
        true => name.chars().take(most - 1).chain(['…']).collect(),
        false => name.to_owned(),
    }
}
