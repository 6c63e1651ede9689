//! What every floor uses: how threads meet, errors, the clock.

pub(crate) mod answer;
pub(crate) mod clock;
pub(crate) mod counted;
pub(crate) mod errors;
pub(crate) mod gate;
pub(crate) mod queue;
pub(crate) mod sync;
