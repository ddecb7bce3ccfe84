//! Every kernel of this machine against plain loops in float64, over odd sizes; networks of a few
//! steps.

use super::dense::{Codes, Dense, Scratch};
use super::depthwise::Depthwise;
use super::map::{Geometry, Map, inside};
use super::pool::max_pool;
use super::*;
use crate::engine::Isa;
use crate::parallel::Workers;
use crate::request::Embedding;
use crate::saved::SharedBytes;
use crate::tests::{check, numbers};

fn symmetric(side: usize, stride: usize) -> Window {
    Window {
        side,
        stride,
        padding: Padding::Symmetric(side / 2),
    }
}

fn same(side: usize, stride: usize) -> Window {
    Window {
        side,
        stride,
        padding: Padding::Same,
    }
}

fn grid(rows: usize, columns: usize) -> Grid {
    Grid { rows, columns }
}

fn map(grid: Grid, channels: usize, seed: u64) -> Map {
    let mut map = Map::default();
    map.resize(grid, channels, Format::F32);
    let values = numbers(grid.len() * channels, seed);
    map.numbers_mut().copy_from_slice(&values);
    map
}

/// What a convolution should give, by its definition.
fn expected(
    convolution: &Convolution,
    from: &Map,
    weight: &[f32],
    bias: &[f32],
    residual: &[f32],
) -> Vec<f64> {
    let Convolution {
        window,
        inputs,
        outputs,
        depthwise,
        last,
        ..
    } = *convolution;
    let (rows, top) = window.along(from.grid.rows);
    let (columns, left) = window.along(from.grid.columns);
    let area = window.side * window.side;
    let numbers = from.numbers();
    let mut all = vec![];
    for place in 0..rows * columns {
        for output in 0..outputs {
            let mut sum = f64::from(bias[output]);
            for tap in 0..area {
                let y = (place / columns * window.stride + tap / window.side).wrapping_sub(top);
                let x = (place % columns * window.stride + tap % window.side).wrapping_sub(left);
                if y >= from.grid.rows || x >= from.grid.columns {
                    continue;
                }
                let at = (y * from.grid.columns + x) * inputs;
                let mut add = |input: usize, weight: f32| {
                    sum += f64::from(numbers[at + input]) * f64::from(weight);
                };
                match depthwise {
                    true => add(output, weight[output * area + tap]),
                    false => {
                        (0..inputs).for_each(|i| add(i, weight[(output * inputs + i) * area + tap]))
                    }
                }
            }
            let residual = f64::from(residual[place * outputs + output]);
            all.push(match last {
                Epilogue::Relu => sum.max(0.0),
                Epilogue::Relu6 => sum.clamp(0.0, 6.0),
                Epilogue::Add => sum + residual,
                Epilogue::AddRelu => (sum + residual).max(0.0),
                _ => sum,
            });
        }
    }
    all
}

#[test]
fn convolutions_agree_with_plain_loops() {
    use Epilogue::{Add, AddRelu, Relu, Relu6, Store};
    // Rows and columns of the map, inputs, outputs, window, what follows.
    let cases = [
        (5, 7, 24, 40, Window::POINT, Relu6),
        (9, 9, 64, 32, Window::POINT, Add),
        (3, 5, 256, 70, Window::POINT, Store),
        (7, 6, 33, 16, symmetric(1, 2), Store),
        (6, 9, 8, 48, symmetric(3, 1), Relu),
        (7, 7, 16, 33, symmetric(3, 2), AddRelu),
        (13, 11, 3, 32, same(3, 2), Relu6),
        (12, 10, 3, 20, same(3, 2), Relu6),
        (9, 14, 3, 64, symmetric(7, 2), Relu),
        (2, 2, 5, 7, symmetric(7, 2), Store),
        (4, 5, 128, 96, symmetric(3, 1), AddRelu),
        (1, 1, 16, 8, same(5, 2), Store),
        // Wide enough for windows to be read where they are.
        (5, 14, 64, 40, symmetric(3, 1), Relu),
        (6, 26, 32, 33, symmetric(3, 2), Add),
        (4, 31, 512, 32, symmetric(3, 1), Relu),
        (3, 25, 256, 40, same(3, 2), AddRelu),
        (20, 41, 3, 16, symmetric(7, 2), Relu),
        (9, 16, 128, 64, same(5, 1), Store),
    ];
    let engines = Engine::all().into_iter();
    let kernels: Vec<_> = engines
        .flat_map(|engine| Precision::ALL.map(|precision| (engine, precision)))
        .collect();
    let signs = cases
        .into_iter()
        .flat_map(|case| [(case, false), (case, true)]);
    for (i, (case, positive)) in (0..).zip(signs) {
        let (rows, columns, inputs, outputs, window, last) = case;
        let convolution = Convolution {
            window,
            inputs,
            outputs,
            depthwise: false,
            least: Precision::Int8,
            last,
        };
        let mut from = map(grid(rows, columns), inputs, i);
        if positive {
            from.numbers_mut().iter_mut().for_each(|x| *x = x.abs());
        }
        let weight = numbers(convolution.weights(), 100 + i);
        let bias = numbers(outputs, 200 + i);
        let geometry = Geometry::new(window, from.grid);
        let residual = map(geometry.to, outputs, 300 + i);
        let expected = expected(&convolution, &from, &weight, &bias, residual.numbers());
        for &(engine, precision) in &kernels {
            let dense =
                Dense::new(engine, precision, convolution, &weight, &bias, positive).unwrap();
            for workers in [Workers::Serial, Workers::Pool] {
                let mut scratch: Vec<Scratch> = vec![];
                scratch.resize_with(workers.threads(), Scratch::default);
                let mut to = map(geometry.to, outputs, 300 + i);
                let mut codes = Codes::default();
                dense.run(&from, &mut to, &geometry, &mut scratch, &mut codes, workers);
                let kernel = engine.kernel(precision);
                let name = format!("{} {convolution:?}", kernel.name);
                check(&name, kernel.format, to.numbers(), &expected, outputs);
            }
        }
    }
}

#[test]
fn depthwise_convolutions_agree_with_plain_loops() {
    use Epilogue::{Relu, Relu6, Store};
    let cases = [
        (9, 7, 32, symmetric(3, 1), Relu),
        (8, 9, 48, same(3, 2), Relu6),
        (14, 14, 40, same(5, 1), Store),
        (11, 15, 24, same(5, 2), Relu6),
        (2, 3, 16, same(5, 1), Relu6),
        (1, 1, 7, same(5, 2), Store),
        (6, 6, 19, symmetric(7, 1), Relu),
    ];
    for (i, (rows, columns, channels, window, last)) in (0..).zip(cases) {
        let convolution = Convolution {
            window,
            inputs: channels,
            outputs: channels,
            depthwise: true,
            least: Precision::Int8,
            last,
        };
        let from = map(grid(rows, columns), channels, i);
        let weight = numbers(convolution.weights(), 100 + i);
        let bias = numbers(channels, 200 + i);
        let geometry = Geometry::new(window, from.grid);
        let none = vec![0.0; geometry.to.len() * channels];
        let expected = expected(&convolution, &from, &weight, &bias, &none);
        let depthwise = Depthwise::new(convolution, &weight, &bias).unwrap();
        for engine in Engine::all() {
            let kernel = engine.kernel(Precision::F32);
            for workers in [Workers::Serial, Workers::Pool] {
                let mut to = map(geometry.to, channels, 300);
                depthwise.run(kernel, &from, &mut to, &geometry, workers);
                let name = format!("{} {convolution:?}", kernel.name);
                check(&name, kernel.format, to.numbers(), &expected, channels);
            }
        }
    }
}

#[test]
fn the_largest_number_of_a_window_is_found() {
    for (rows, columns, channels, window) in [
        (8, 8, 32, symmetric(3, 2)),
        (7, 5, 19, symmetric(3, 2)),
        (1, 2, 3, same(3, 2)),
    ] {
        let from = map(grid(rows, columns), channels, 5);
        let geometry = Geometry::new(window, from.grid);
        let mut expected = vec![];
        for place in 0..geometry.to.len() {
            let (row, column) = (place / geometry.to.columns, place % geometry.to.columns);
            let (_, ys) = inside(row, window.stride, geometry.top, window.side, rows);
            let (_, xs) = inside(column, window.stride, geometry.left, window.side, columns);
            for channel in 0..channels {
                let at =
                    |y: usize, x: usize| from.numbers()[(y * columns + x) * channels + channel];
                let numbers = ys.clone().flat_map(|y| xs.clone().map(move |x| (y, x)));
                let most = numbers.map(|(y, x)| at(y, x)).fold(f32::MIN, f32::max);
                expected.push(most);
            }
        }
        for engine in Engine::all() {
            let kernel = engine.kernel(Precision::F32);
            let mut to = map(geometry.to, channels, 300);
            max_pool(kernel, &from, &mut to, &geometry, Workers::Serial);
            assert_eq!(to.numbers(), expected, "{} {window:?}", kernel.name);
        }
    }
}

fn step(from: usize, to: usize, operation: Operation) -> Step {
    Step {
        from,
        to,
        operation,
    }
}

fn convolution(window: Window, inputs: usize, outputs: usize, last: Epilogue) -> Operation {
    Operation::Convolution(Convolution {
        window,
        inputs,
        outputs,
        depthwise: false,
        least: if inputs == 3 {
            Precision::Half
        } else {
            Precision::Int8
        },
        last,
    })
}

/// A stem, a pool, a residual block, and an inverted one: two stages and an embedding.
fn steps() -> Vec<Step> {
    use Epilogue::{Add, AddRelu, Relu, Relu6, Store};
    let depthwise = Operation::Convolution(Convolution {
        window: same(3, 1),
        inputs: 96,
        outputs: 96,
        depthwise: true,
        least: Precision::Int8,
        last: Relu6,
    });
    vec![
        step(0, 1, convolution(symmetric(7, 2), 3, 32, Relu)),
        step(1, 0, Operation::MaxPool(symmetric(3, 2))),
        step(0, 1, convolution(symmetric(3, 1), 32, 32, Relu)),
        step(1, 0, convolution(symmetric(3, 1), 32, 32, AddRelu)),
        step(0, 0, Operation::Stage),
        step(0, 1, convolution(symmetric(1, 2), 32, 24, Store)),
        step(1, 2, convolution(Window::POINT, 24, 96, Relu6)),
        step(2, 3, depthwise),
        step(3, 1, convolution(Window::POINT, 96, 24, Add)),
        step(1, 0, Operation::Stage),
        step(1, 0, Operation::Embedding),
    ]
}

fn network(engine: Engine, precision: Precision) -> ConvNet {
    let mut network = ConvNet::new(engine, precision);
    for (i, step) in (0..).zip(steps()) {
        match step.operation {
            Operation::Convolution(convolution) => {
                let spread = (convolution.weights() / convolution.outputs) as f32;
                let weight = numbers(convolution.weights(), i);
                let weight: Vec<f32> = weight.iter().map(|x| 2.0 * x / spread.sqrt()).collect();
                let bias = numbers(convolution.outputs, 50 + i);
                let weights = LinearWeights {
                    weight: &weight,
                    bias: &bias,
                };
                network.push(step, Some(weights)).unwrap();
            }
            _ => network.push(step, None).unwrap(),
        }
    }
    network
}

fn request(stages: &[usize]) -> FeatureRequest {
    FeatureRequest {
        layers: stages.iter().map(|&n| LayerId::Stage(n)).collect(),
        embedding: Some(Embedding::Normed),
        ..FeatureRequest::default()
    }
}

fn encode(network: &ConvNet, count: u64, stages: &[usize]) -> Vec<ImageFeatures> {
    let pixels: Vec<Vec<f32>> = (0..count).map(|i| numbers(3 * 33 * 20, i)).collect();
    let images = Images {
        pixels: pixels.iter().map(Vec::as_slice).collect(),
        height: 33,
        width: 20,
    };
    network.encode(&images, &request(stages)).unwrap()
}

/// Inverted residual blocks, whose wide maps are computed panel by panel, and the same step by step.
#[test]
fn inverted_blocks_agree_with_plain_loops() {
    let cases = [
        (9, 7, 24, 96, 40, same(3, 1)),
        (14, 11, 16, 144, 24, same(5, 2)),
        (40, 33, 40, 48, 40, same(3, 2)),
        (70, 80, 8, 32, 16, same(5, 1)),
        (3, 2, 32, 240, 48, symmetric(5, 1)),
    ];
    for (i, (rows, columns, inputs, hidden, outputs, window)) in (0..).zip(cases) {
        let whole = |window, inputs, outputs, depthwise, last| Convolution {
            window,
            inputs,
            outputs,
            depthwise,
            least: if inputs == 3 {
                Precision::Half
            } else {
                Precision::Int8
            },
            last,
        };
        let convolutions = [
            whole(Window::POINT, 3, inputs, false, Epilogue::Store),
            whole(Window::POINT, inputs, hidden, false, Epilogue::Relu6),
            whole(window, hidden, hidden, true, Epilogue::Relu6),
            whole(Window::POINT, hidden, outputs, false, Epilogue::Store),
        ];
        let weights = convolutions.map(|convolution| {
            let each = convolution.weights() / convolution.outputs;
            let weight = numbers(convolution.weights(), 10 + i);
            let weight: Vec<f32> = weight
                .iter()
                .map(|x| 3.0 * x / (each as f32).sqrt())
                .collect();
            (weight, numbers(convolution.outputs, 20 + i))
        });
        let mut image = map(grid(rows, columns), 3, i);
        let pixels: Vec<f32> = (0..3)
            .flat_map(|colour| image.numbers().iter().skip(colour).step_by(3))
            .copied()
            .collect();
        for (convolution, (weight, bias)) in convolutions.iter().zip(&weights) {
            let geometry = Geometry::new(convolution.window, image.grid);
            let none = vec![0.0; geometry.to.len() * convolution.outputs];
            let found = expected(convolution, &image, weight, bias, &none);
            image.resize(geometry.to, convolution.outputs, Format::F32);
            for (to, x) in image.numbers_mut().iter_mut().zip(found) {
                *to = x as f32;
            }
        }
        let expected: Vec<f64> = image.numbers().iter().map(|&x| x.into()).collect();
        for engine in Engine::all() {
            for precision in Precision::ALL {
                let mut network = ConvNet::new(engine, precision);
                for (n, (convolution, (weight, bias))) in
                    convolutions.iter().zip(&weights).enumerate()
                {
                    let operation = Operation::Convolution(*convolution);
                    let weights = LinearWeights { weight, bias };
                    network
                        .push(step(n, n + 1, operation), Some(weights))
                        .unwrap();
                }
                assert!(network.inverted(1).is_some());
                network.push(step(4, 4, Operation::Stage), None).unwrap();
                let images = Images {
                    pixels: vec![&pixels],
                    height: rows,
                    width: columns,
                };
                let request = FeatureRequest::layers([LayerId::Stage(1)]);
                let format = engine.kernel(precision).format;
                let name = format!("{engine:?} {precision} {hidden} {window:?}");
                for threads in [1, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                    let pool = pool.build().unwrap();
                    // Twice: what is left from the first time must not matter.
                    for _ in 0..2 {
                        let found = pool.install(|| network.encode(&images, &request).unwrap());
                        check(&name, format, &found[0].maps[0].tokens, &expected, outputs);
                    }
                }
            }
        }
    }
}

#[test]
fn features_do_not_depend_on_threads_neighbours_or_order() {
    for engine in Engine::all() {
        for precision in Precision::ALL {
            let network = network(engine, precision);
            let pool = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                pool.build().unwrap()
            };
            let alone = pool(1).install(|| encode(&network, 1, &[1, 2]));
            let together = pool(3).install(|| encode(&network, 4, &[2, 1]));
            let [first, second] = &alone[0].maps[..] else {
                panic!("two maps")
            };
            assert_eq!((first.grid, first.dim), (grid(9, 5), 32));
            assert_eq!((second.grid, second.dim), (grid(5, 3), 24));
            let found = &together[0];
            assert_eq!(found.maps, [second.clone(), first.clone()]);
            assert_eq!(found.embedding, alone[0].embedding);
            let place = |channel: usize| second.tokens.iter().skip(channel).step_by(24);
            let mean = place(7).sum::<f32>() / 15.0;
            let embedding = alone[0].embedding.as_ref().unwrap();
            assert!((embedding[7] - mean).abs() < 1e-5);
        }
    }
}

#[test]
fn networks_are_read_as_they_were_written() {
    for engine in Engine::all() {
        for precision in Precision::ALL {
            let network = network(engine, precision);
            let mut bytes = vec![];
            network.write(&mut bytes).unwrap();
            let shared = SharedBytes::read(&bytes[..], bytes.len()).unwrap();
            let again = ConvNet::read(engine, precision, &steps(), &shared, 0).unwrap();
            assert_eq!(encode(&again, 2, &[1, 2]), encode(&network, 2, &[1, 2]));
            let cut = SharedBytes::read(&bytes[..], bytes.len() - 64).unwrap();
            assert!(ConvNet::read(engine, precision, &steps(), &cut, 0).is_err());
        }
    }
    // Whatever wrote them, the plainest engine reads them.
    let portable = Engine::new(Isa::Portable).unwrap();
    let exact = encode(&network(portable, Precision::F32), 1, &[2]);
    let mut bytes = vec![];
    let written = network(Engine::detect(), Precision::Int8);
    written.write(&mut bytes).unwrap();
    let shared = SharedBytes::read(&bytes[..], bytes.len()).unwrap();
    let read = ConvNet::read(portable, Precision::Int8, &steps(), &shared, 0).unwrap();
    let found = encode(&read, 1, &[2]);
    let exact: Vec<f64> = exact[0].maps[0].tokens.iter().map(|&x| x.into()).collect();
    check(
        "portable",
        crate::format::Format::Int8,
        &found[0].maps[0].tokens,
        &exact,
        24,
    );
}

#[test]
fn what_does_not_fit_is_an_error() {
    use Epilogue::{Add, Gelu, Store};
    let point = |inputs, outputs, last| convolution(Window::POINT, inputs, outputs, last);
    let wide = Window {
        side: 17,
        ..Window::POINT
    };
    let cases = [
        ("nothing to read", step(5, 1, point(3, 4, Store))),
        ("no such map", step(0, 8, point(3, 4, Store))),
        ("other inputs", step(0, 1, point(4, 4, Store))),
        ("no outputs", step(0, 1, point(3, 0, Store))),
        ("no residual", step(0, 1, point(3, 4, Add))),
        ("in place", step(0, 0, point(3, 3, Store))),
        (
            "an activation of transformers",
            step(0, 1, point(3, 4, Gelu)),
        ),
        (
            "too large a window",
            step(0, 1, convolution(wide, 3, 4, Store)),
        ),
        ("no weights", step(0, 1, point(3, 4, Store))),
    ];
    for (case, step) in cases {
        let mut network = ConvNet::new(Engine::detect(), Precision::F32);
        assert!(network.push(step, None).is_err(), "{case}");
    }
    let network = network(Engine::detect(), Precision::F32);
    let pixels = [0.0; 3 * 4];
    let images = |height, width| Images {
        pixels: vec![&pixels[..]],
        height,
        width,
    };
    assert!(network.encode(&images(2, 2), &request(&[2])).is_ok());
    assert!(network.encode(&images(2, 3), &request(&[2])).is_err());
    assert!(network.encode(&images(2, 2), &request(&[3])).is_err());
    assert!(
        network
            .encode(&images(2, 2), &FeatureRequest::blocks([1]))
            .is_err()
    );
}
