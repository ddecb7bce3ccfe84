//! Times convolutional networks with random weights on this machine.
//!
//!     cargo run --release --example convnet -- [lite0|wrn50|resnet18] [side] [f32|half|int8] [runs]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // an example

use std::time::Instant;

use anomalens_kernels::{
    ConvNet, Convolution, Engine, Epilogue, FeatureRequest, Images, LayerId, LinearWeights,
    Operation, Padding, Precision, Step, Window,
};

struct Builder {
    network: ConvNet,
    state: u64,
    same: bool,
    least: Precision,
}

impl Builder {
    fn numbers(&mut self, count: usize, size: f32) -> Vec<f32> {
        let mut next = || {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            (self.state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..count).map(|_| next() * size).collect()
    }

    fn window(&self, side: usize, stride: usize) -> Window {
        let padding = match self.same {
            true => Padding::Same,
            false => Padding::Symmetric(side / 2),
        };
        Window {
            side,
            stride,
            padding,
        }
    }

    fn layer(
        &mut self,
        (from, to): (usize, usize),
        (side, stride): (usize, usize),
        (inputs, outputs, depthwise): (usize, usize, bool),
        last: Epilogue,
    ) {
        let convolution = Convolution {
            window: self.window(side, stride),
            inputs,
            outputs,
            depthwise,
            least: self.least,
            last,
        };
        let each = convolution.weights() / outputs;
        let weight = self.numbers(convolution.weights(), 3.0 / (each as f32).sqrt());
        let bias = self.numbers(outputs, 0.5);
        let weights = LinearWeights {
            weight: &weight,
            bias: &bias,
        };
        let operation = Operation::Convolution(convolution);
        let step = Step {
            from,
            to,
            operation,
        };
        self.network.push(step, Some(weights)).unwrap();
    }

    fn plain(&mut self, from: usize, to: usize, operation: Operation) {
        let step = Step {
            from,
            to,
            operation,
        };
        self.network.push(step, None).unwrap();
    }

    fn lite0(&mut self) {
        self.same = true;
        self.layer((0, 1), (3, 2), (3, 32, false), Epilogue::Relu6);
        let stages = [
            (1, 3, 1, 1, 16),
            (2, 3, 2, 6, 24),
            (2, 5, 2, 6, 40),
            (3, 3, 2, 6, 80),
            (3, 5, 1, 6, 112),
            (4, 5, 2, 6, 192),
            (1, 3, 1, 6, 320),
        ];
        let (mut stream, mut spare, mut inputs) = (1, 0, 32);
        for (blocks, side, first_stride, expand, outputs) in stages {
            // As in the encoder of that name.
            self.least = match outputs {
                16 => Precision::F32,
                ..=80 => Precision::Half,
                _ => Precision::Int8,
            };
            for block in 0..blocks {
                let stride = if block == 0 { first_stride } else { 1 };
                let hidden = inputs * expand;
                let mut from = stream;
                if expand > 1 {
                    self.layer(
                        (stream, 2),
                        (1, 1),
                        (inputs, hidden, false),
                        Epilogue::Relu6,
                    );
                    from = 2;
                }
                self.layer(
                    (from, 3),
                    (side, stride),
                    (hidden, hidden, true),
                    Epilogue::Relu6,
                );
                if stride == 1 && inputs == outputs {
                    self.layer((3, stream), (1, 1), (hidden, outputs, false), Epilogue::Add);
                } else {
                    self.layer(
                        (3, spare),
                        (1, 1),
                        (hidden, outputs, false),
                        Epilogue::Store,
                    );
                    (stream, spare) = (spare, stream);
                }
                inputs = outputs;
            }
            self.plain(stream, stream, Operation::Stage);
        }
        self.layer((stream, 2), (1, 1), (inputs, 1280, false), Epilogue::Relu6);
        self.plain(2, 2, Operation::Embedding);
    }

    fn resnet(&mut self, depths: [usize; 4], bottleneck: bool, width: usize) {
        self.layer((0, 1), (7, 2), (3, 64, false), Epilogue::Relu);
        self.least = Precision::Int8;
        let window = self.window(3, 2);
        self.plain(1, 0, Operation::MaxPool(window));
        let (mut stream, mut spare, mut inputs) = (0, 3, 64);
        for (stage, depth) in depths.into_iter().enumerate() {
            let width = width << stage;
            let outputs = if bottleneck { 256 << stage } else { width };
            for block in 0..depth {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                if bottleneck {
                    self.layer((stream, 1), (1, 1), (inputs, width, false), Epilogue::Relu);
                    self.layer((1, 2), (3, stride), (width, width, false), Epilogue::Relu);
                } else {
                    self.layer(
                        (stream, 2),
                        (3, stride),
                        (inputs, width, false),
                        Epilogue::Relu,
                    );
                }
                if inputs != outputs || stride != 1 {
                    self.layer(
                        (stream, spare),
                        (1, stride),
                        (inputs, outputs, false),
                        Epilogue::Store,
                    );
                    (stream, spare) = (spare, stream);
                }
                let side = if bottleneck { 1 } else { 3 };
                self.layer(
                    (2, stream),
                    (side, 1),
                    (width, outputs, false),
                    Epilogue::AddRelu,
                );
                inputs = outputs;
            }
            self.plain(stream, stream, Operation::Stage);
        }
        self.plain(stream, stream, Operation::Embedding);
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |i: usize, default: &str| args.get(i).cloned().unwrap_or_else(|| default.into());
    let name = arg(0, "lite0");
    let side: usize = arg(1, "224").parse().unwrap();
    let precision: Precision = arg(2, "f32").parse().unwrap();
    let runs: usize = arg(3, "10").parse().unwrap();
    let mut builder = Builder {
        network: ConvNet::new(Engine::from_env().unwrap(), precision),
        state: 7,
        same: false,
        least: Precision::Half,
    };
    match name.as_str() {
        "lite0" => builder.lite0(),
        "resnet18" => builder.resnet([2, 2, 2, 2], false, 64),
        _ => builder.resnet([3, 4, 6, 3], true, 128),
    }
    let pixels = builder.numbers(3 * side * side, 2.0);
    let images = Images {
        pixels: vec![&pixels],
        height: side,
        width: side,
    };
    let last = builder.network.stages().len();
    let request = FeatureRequest::layers([LayerId::Stage(last)]);
    let mut times: Vec<f64> = (0..=runs)
        .map(|_| {
            let start = Instant::now();
            builder.network.encode(&images, &request).unwrap();
            start.elapsed().as_secs_f64() * 1e3
        })
        .skip(1)
        .collect();
    times.sort_by(f64::total_cmp);
    println!(
        "{name} {side} {precision} {} threads: least {:.2} ms, median {:.2} ms",
        rayon::current_num_threads(),
        times[0],
        times[times.len() / 2]
    );
}
