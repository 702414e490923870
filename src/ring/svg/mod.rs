//! The ring as a picture: circles of virtual nodes, coloured by the shards that own them, and a legend of the loads.
//!
//! | room | what it is for |
//! |---|---|
//! | `palette` | a colour for every shard, a family of colours for every zone |
//! | `circle` | which colours a circle is made of, so that their number is bounded |
//! | `canvas` | shapes and text as SVG, escaped |
//! | `ring` | the picture of a ring |
//! | `moves` | the picture of what a next ring moves |
//!
//! Invariants: a picture is valid XML whatever zones are called, needs nothing but itself, and stays below a few hundred
//! kilobytes whatever the ring.

mod canvas;
mod circle;
mod moves;
mod palette;
mod ring;

#[cfg(test)]
mod tests;

pub(super) use moves::moves_picture;
pub(super) use ring::ring_picture;

/// Where circles and legend lie.
const CENTRE: f64 = 340.0;
const OUTER: f64 = 290.0;
const LEGEND: f64 = 690.0;
const TOP: f64 = 96.0;
const ROW: f64 = 21.0;
/// The rows of a column of the legend, before a second one is begun.
const ROWS: usize = 27;

/// The height of a picture with so many rows in its longest column.
fn height(rows: usize) -> f64 {
    (TOP + ROW * rows as f64 + 24.0).max(2.0 * CENTRE + 20.0)
}
