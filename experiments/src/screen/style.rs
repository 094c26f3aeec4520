//! Looks of words and frames.

use ratatui::style::{Color, Modifier, Style};

/// Frames, and what is said beside.
pub(super) const FAINT: Style = Style::new().fg(Color::DarkGray);
/// Headings, and what is selected.
pub(super) const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);
/// What went wrong.
pub(super) const PROBLEM: Style = Style::new().fg(Color::Red);
