//! The methods, one folder for each.

pub mod acr;
pub mod anomaly_dino;
pub mod anomalyclip;
pub mod april_gan;
pub mod clip;
pub mod clip_ad;
pub mod coop;
pub mod denseclip;
pub mod inctrl;
pub mod lens;
pub mod maskclip;
pub mod musc;
pub mod padim;
pub mod patchcore;
pub mod regad;
pub mod spade;
pub mod winclip;
pub mod zoc;
