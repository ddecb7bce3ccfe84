//! What a second image of the same size allocates: its features, nothing else.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use anomalens_kernels::{Dpam, Engine, FeatureRequest, Precision, SelfAttention, TokenStage};

use crate::network::{BLOCKS, EMBEDDING, Network, SIZE, TOKENS, images_of, numbers};

thread_local! {
    /// Bytes that this thread has asked for.
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

// SAFETY: every call is handed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + layout.size());
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_second_image_allocates_its_features_alone() {
    /// Lists of a few entries.
    const SMALL: usize = 1024;
    let network = Network::new();
    let images = numbers(3 * SIZE.0 * SIZE.1, 92, 1.0);
    let request = FeatureRequest {
        attention: Some(Dpam {
            first_block: 2,
            attention: SelfAttention::Values,
            feed_forward: false,
        }),
        ..FeatureRequest::blocks([2, BLOCKS]).at(TokenStage::Projected)
    };
    let features = request.layers.len() * TOKENS * EMBEDDING * size_of::<f32>();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.unwrap().install(|| {
        for engine in Engine::all() {
            for precision in Precision::ALL {
                let vit = network.packed(engine, precision);
                let asked = || {
                    let before = ASKED.get();
                    vit.encode(&images_of(&images), &network.positions, &request)
                        .unwrap();
                    ASKED.get() - before
                };
                let (first, second) = (asked(), asked());
                assert!(first > features + SMALL, "{engine:?} {precision}: {first}");
                assert!(
                    second <= features + SMALL,
                    "{engine:?} {precision}: {second}"
                );
            }
        }
    });
}
