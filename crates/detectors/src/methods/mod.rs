//! The methods, one folder for each.

pub mod anomaly_dino;
pub mod anomalyclip;
pub mod clip;
pub mod inctrl;
pub mod lens;
pub mod musc;
pub mod padim;
pub mod patchcore;
pub mod regad;
pub mod spade;
