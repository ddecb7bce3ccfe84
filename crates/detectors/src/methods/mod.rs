//! The methods, one folder for each.

pub mod anomaly_dino;
pub mod anomalyclip;
pub mod clip;
pub mod denseclip;
pub mod inctrl;
pub mod lens;
pub mod maskclip;
pub mod musc;
pub mod padim;
pub mod patchcore;
pub mod spade;
pub mod winclip;
