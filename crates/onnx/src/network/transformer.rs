//! Vision transformers, with all that a request can change about them.

use anomalens_backbones::{
    Activation, Dpam, Embedding, FeatureRequest, Grid, LayerId, SelfAttention, TokenStage,
    TransformerBlueprint, Unpacked, UnpackedBlock, UnpackedHead,
};
use anomalens_backbones::{Epilogue, QUICK_GELU};

use super::{Outputs, Size, Tokens};
use crate::OnnxError;
use crate::model::{Attribute, Graph, Value};

/// What every block needs to know.
struct Rules {
    width: usize,
    heads: usize,
    epsilon: f32,
    activation: Epilogue,
}

/// A block whose weights are in the graph.
struct Block {
    norm1: [Value; 2],
    /// Of queries, keys and values.
    projections: [[Value; 2]; 3],
    output: [Value; 2],
    norm2: [Value; 2],
    up: [Value; 2],
    down: [Value; 2],
}

pub(super) fn add(
    graph: &mut Graph,
    blueprint: &TransformerBlueprint<'_>,
    request: &FeatureRequest,
    size: Size,
    pixels: &Value,
) -> Result<Outputs, OnnxError> {
    let departures = request.departures;
    let epsilon = departures.norm_epsilon.map(|n| 0.1_f32.powi(n.into()));
    let rules = Rules {
        width: blueprint.width(),
        heads: blueprint.heads(),
        epsilon: epsilon.unwrap_or(blueprint.epsilon()),
        activation: departures
            .activation
            .map_or(blueprint.activation(), Activation::epilogue),
    };
    let patch = blueprint.patch();
    let grid = Grid {
        rows: size.height / patch,
        columns: size.width / patch,
    };
    let windows = request.windows().next().is_some();
    let whole = request.embedding.is_some() || windows;
    let last = match whole {
        true => usize::MAX,
        false => request.last_block(),
    };
    let start = stem(graph, blueprint, &rules, request, grid, pixels)?;
    let head = blueprint.head();
    let mut tokens = start.clone();
    let mut local = None;
    let mut blocks = vec![];
    let mut taken = vec![];
    for (number, unpacked) in (1..=last).zip(blueprint.blocks()) {
        let block = Block::new(graph, &rules, &unpacked);
        let normed = norm(graph, &rules, &tokens, &block.norm1);
        let layer = LayerId::Block(number);
        let wanted = request.layers.contains(&layer);
        if wanted && request.stage == TokenStage::Keys {
            let keys = linear(graph, &normed, &block.projections[1]);
            taken.push((layer, linear(graph, &keys, &block.output)));
        }
        let projected = block
            .projections
            .each_ref()
            .map(|layer| linear(graph, &normed, layer));
        if let Some(dpam) = request.attention.filter(|dpam| number >= dpam.first_block) {
            let Dpam { feed_forward, .. } = dpam;
            let attended = block.attend(graph, &rules, &projected, Some(dpam.attention));
            let stream = local.unwrap_or_else(|| tokens.clone());
            let sum = graph.node("Add", &[&stream, &attended], &[]);
            local = Some(match feed_forward {
                true => block.feed_forward(graph, &rules, &sum),
                false => sum,
            });
        }
        let attended = block.attend(graph, &rules, &projected, None);
        let sum = graph.node("Add", &[&tokens, &attended], &[]);
        tokens = block.feed_forward(graph, &rules, &sum);
        if wanted && request.stage != TokenStage::Keys {
            let tokens = local.as_ref().unwrap_or(&tokens).clone();
            taken.push((layer, at(graph, &rules, &head, request.stage, &tokens)));
        }
        blocks.extend(windows.then_some(block));
    }
    let projected = head.projection.as_ref().map(|layer| layer.bias.len());
    let embedding = projected.unwrap_or(rules.width);
    let dim = match request.stage {
        TokenStage::Projected => embedding,
        TokenStage::Block | TokenStage::Normed | TokenStage::Keys => rules.width,
    };
    let mut maps = vec![];
    for &layer in &request.layers {
        maps.push(match layer {
            LayerId::Window(side) => {
                let (value, grid) = of_windows(graph, &rules, &blocks, &head, &start, grid, side)?;
                Tokens {
                    layer,
                    grid,
                    dim: embedding,
                    class_token: false,
                    value,
                }
            }
            _ => {
                let found = taken.iter().find(|(known, _)| *known == layer);
                let (_, value) = found.ok_or(OnnxError::NoLayer(layer))?;
                Tokens {
                    layer,
                    grid,
                    dim,
                    class_token: true,
                    value: value.clone(),
                }
            }
        });
    }
    let embedding = request.embedding.map(|rule| {
        let class = first(graph, &tokens);
        let class = match rule {
            Embedding::Normed => head_norm(graph, &rules, &head, &class),
            Embedding::Direct => class,
        };
        project(graph, &head, &class)
    });
    Ok(Outputs { maps, embedding })
}

/// The tokens before the first block, `[batch, 1 + patches, width]`.
fn stem(
    graph: &mut Graph,
    blueprint: &TransformerBlueprint<'_>,
    rules: &Rules,
    request: &FeatureRequest,
    grid: Grid,
    pixels: &Value,
) -> Result<Value, OnnxError> {
    let (stem, patch, width) = (blueprint.stem(), blueprint.patch(), rules.width);
    let weight = graph.constant("patch", &[width, 3, patch, patch], &stem.patch.weight);
    let bias = graph.constant("patch_bias", &[width], &stem.patch.bias);
    let strides = Attribute::Ints(vec![patch as i64; 2]);
    let shape = Attribute::Ints(vec![patch as i64; 2]);
    let map = graph.node(
        "Conv",
        &[pixels, &weight, &bias],
        &[("strides", strides), ("kernel_shape", shape)],
    );
    let rows = graph.reshape(&map, &[0, width as i64, -1]);
    let patches = graph.transpose(&rows, &[0, 2, 1]);
    // A row of zeros, to which the class token comes with its position.
    let pads = graph.ints(&[0, 1, 0, 0, 0, 0]);
    let padded = graph.node("Pad", &[&patches, &pads], &[]);
    let mut positions = blueprint.positions(grid, request.positions)?;
    let times = if request.departures.class_twice {
        2.0
    } else {
        1.0
    };
    for (position, class) in positions.iter_mut().zip(&stem.class_token) {
        *position += times * class;
    }
    let positions = graph.constant("positions", &[1, 1 + grid.len(), width], &positions);
    let tokens = graph.node("Add", &[&padded, &positions], &[]);
    Ok(match &stem.norm {
        Some(layer) => {
            let layer = norm_weights(graph, "stem_norm", layer);
            norm(graph, rules, &tokens, &layer)
        }
        None => tokens,
    })
}

impl Block {
    fn new(graph: &mut Graph, rules: &Rules, block: &UnpackedBlock) -> Self {
        let width = rules.width;
        let part = |i: usize| Unpacked {
            weight: block.qkv.weight[i * width * width..(i + 1) * width * width].to_vec(),
            bias: block.qkv.bias[i * width..(i + 1) * width].to_vec(),
        };
        Self {
            norm1: norm_weights(graph, "norm1", &block.norm1),
            projections: [("query", 0), ("key", 1), ("value", 2)]
                .map(|(name, i)| linear_weights(graph, name, &part(i))),
            output: linear_weights(graph, "output", &block.output),
            norm2: norm_weights(graph, "norm2", &block.norm2),
            up: linear_weights(graph, "up", &block.up),
            down: linear_weights(graph, "down", &block.down),
        }
    }

    /// The attention of queries to keys, or of one projection to itself, after the output layer.
    fn attend(
        &self,
        graph: &mut Graph,
        rules: &Rules,
        projected: &[Value; 3],
        own: Option<SelfAttention>,
    ) -> Value {
        let [queries, keys, values] = projected;
        let joined = match own {
            None => attention(graph, rules, [queries, keys, values]),
            Some(SelfAttention::Values) => attention(graph, rules, [values, values, values]),
            Some(SelfAttention::Queries) => attention(graph, rules, [queries, queries, values]),
            Some(SelfAttention::Keys) => attention(graph, rules, [keys, keys, values]),
            Some(SelfAttention::Alone) => values.clone(),
        };
        linear(graph, &joined, &self.output)
    }

    fn feed_forward(&self, graph: &mut Graph, rules: &Rules, tokens: &Value) -> Value {
        let normed = norm(graph, rules, tokens, &self.norm2);
        let middle = linear(graph, &normed, &self.up);
        let middle = match rules.activation {
            Epilogue::SwiGlu => {
                let two = [
                    ("axis", Attribute::Int(2)),
                    ("num_outputs", Attribute::Int(2)),
                ];
                let [gates, values] = graph.nodes("Split", &[&middle], &two);
                let open = graph.node("Sigmoid", &[&gates], &[]);
                let gates = graph.node("Mul", &[&gates, &open], &[]);
                graph.node("Mul", &[&gates, &values], &[])
            }
            Epilogue::QuickGelu if graph.contrib => {
                let alpha = ("alpha", Attribute::Float(QUICK_GELU as f32));
                graph.contrib_node("QuickGelu", &[&middle], &[alpha])
            }
            Epilogue::QuickGelu => {
                let factor = graph.number(QUICK_GELU as f32);
                let scaled = graph.node("Mul", &[&middle, &factor], &[]);
                let open = graph.node("Sigmoid", &[&scaled], &[]);
                graph.node("Mul", &[&middle, &open], &[])
            }
            _ => graph.node("Gelu", &[&middle], &[]),
        };
        let down = linear(graph, &middle, &self.down);
        graph.node("Add", &[tokens, &down], &[])
    }
}

/// Softmax of queries and keys over values, `[batch, tokens, width]` each, all heads side by side.
fn attention(graph: &mut Graph, rules: &Rules, [queries, keys, values]: [&Value; 3]) -> Value {
    let heads = rules.heads as i64;
    let width = rules.width as i64 / heads;
    if graph.contrib {
        let heads = ("num_heads", Attribute::Int(heads));
        return graph.contrib_node("MultiHeadAttention", &[queries, keys, values], &[heads]);
    }
    let shape = graph.ints(&[0, 0, heads, width]);
    let apart = |graph: &mut Graph, value: &Value, order: &[i64]| {
        let apart = graph.node("Reshape", &[value, &shape], &[]);
        graph.transpose(&apart, order)
    };
    let queries = apart(graph, queries, &[0, 2, 1, 3]);
    let keys = apart(graph, keys, &[0, 2, 3, 1]);
    let values = apart(graph, values, &[0, 2, 1, 3]);
    let scale = graph.number((width as f32).sqrt().recip());
    let queries = graph.node("Mul", &[&queries, &scale], &[]);
    let scores = graph.node("MatMul", &[&queries, &keys], &[]);
    let shares = graph.node("Softmax", &[&scores], &[("axis", Attribute::Int(-1))]);
    let sums = graph.node("MatMul", &[&shares, &values], &[]);
    let joined = graph.transpose(&sums, &[0, 2, 1, 3]);
    graph.reshape(&joined, &[0, 0, heads * width])
}

/// The embeddings of windows of patches, each of which goes through the blocks by itself with the
/// class token.
fn of_windows(
    graph: &mut Graph,
    rules: &Rules,
    blocks: &[Block],
    head: &UnpackedHead,
    start: &Value,
    grid: Grid,
    side: usize,
) -> Result<(Value, Grid), OnnxError> {
    let places = |length: usize| (length + 1).checked_sub(side).filter(|&count| count > 0);
    let (Some(rows), Some(columns)) = (places(grid.rows), places(grid.columns)) else {
        return Err(OnnxError::WindowTooLarge { side, grid });
    };
    let mut indices = vec![];
    for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
        indices.push(0);
        for y in y..y + side {
            let first = (1 + y * grid.columns + x) as i64;
            indices.extend(first..first + side as i64);
        }
    }
    let indices = graph.ints(&indices);
    let axis = [("axis", Attribute::Int(1))];
    let gathered = graph.node("Gather", &[start, &indices], &axis);
    let (tokens, width) = ((1 + side * side) as i64, rules.width as i64);
    let mut tokens = graph.reshape(&gathered, &[-1, tokens, width]);
    for block in blocks {
        let normed = norm(graph, rules, &tokens, &block.norm1);
        let projected = block
            .projections
            .each_ref()
            .map(|layer| linear(graph, &normed, layer));
        let attended = block.attend(graph, rules, &projected, None);
        let sum = graph.node("Add", &[&tokens, &attended], &[]);
        tokens = block.feed_forward(graph, rules, &sum);
    }
    let class = first(graph, &tokens);
    let embedding = at(graph, rules, head, TokenStage::Projected, &class);
    let dim = head
        .projection
        .as_ref()
        .map_or(rules.width, |layer| layer.bias.len());
    let grid = Grid { rows, columns };
    let shape = [-1, grid.len() as i64, dim as i64];
    Ok((graph.reshape(&embedding, &shape), grid))
}

/// The first token of each image, `[batch, width]`.
fn first(graph: &mut Graph, tokens: &Value) -> Value {
    let first = super::slice(graph, tokens, 1, 0, 1);
    let axis = graph.ints(&[1]);
    graph.node("Squeeze", &[&first, &axis], &[])
}

fn at(
    graph: &mut Graph,
    rules: &Rules,
    head: &UnpackedHead,
    stage: TokenStage,
    tokens: &Value,
) -> Value {
    match stage {
        TokenStage::Block | TokenStage::Keys => tokens.clone(),
        TokenStage::Normed => head_norm(graph, rules, head, tokens),
        TokenStage::Projected => {
            let normed = head_norm(graph, rules, head, tokens);
            project(graph, head, &normed)
        }
    }
}

fn head_norm(graph: &mut Graph, rules: &Rules, head: &UnpackedHead, tokens: &Value) -> Value {
    let layer = norm_weights(graph, "final_norm", &head.norm);
    norm(graph, rules, tokens, &layer)
}

fn project(graph: &mut Graph, head: &UnpackedHead, tokens: &Value) -> Value {
    match &head.projection {
        Some(layer) => {
            let weight = product_weight(graph, "projection", layer);
            graph.node("MatMul", &[tokens, &weight], &[])
        }
        None => tokens.clone(),
    }
}

fn norm_weights(graph: &mut Graph, what: &str, layer: &Unpacked) -> [Value; 2] {
    let shape = [layer.weight.len()];
    [
        graph.constant(what, &shape, &layer.weight),
        graph.constant(&format!("{what}_bias"), &shape, &layer.bias),
    ]
}

fn norm(graph: &mut Graph, rules: &Rules, tokens: &Value, [weight, bias]: &[Value; 2]) -> Value {
    let epsilon = ("epsilon", Attribute::Float(rules.epsilon));
    let axis = ("axis", Attribute::Int(-1));
    graph.node(
        "LayerNormalization",
        &[tokens, weight, bias],
        &[axis, epsilon],
    )
}

/// The weight as a product wants it, `[inputs, outputs]`, and the bias.
fn linear_weights(graph: &mut Graph, what: &str, layer: &Unpacked) -> [Value; 2] {
    [
        product_weight(graph, what, layer),
        graph.constant(&format!("{what}_bias"), &[layer.bias.len()], &layer.bias),
    ]
}

fn product_weight(graph: &mut Graph, what: &str, layer: &Unpacked) -> Value {
    let inputs = layer.weight.len() / layer.bias.len().max(1);
    graph.turned(what, &layer.weight, inputs)
}

fn linear(graph: &mut Graph, tokens: &Value, [weight, bias]: &[Value; 2]) -> Value {
    let product = graph.node("MatMul", &[tokens, weight], &[]);
    graph.node("Add", &[&product, bias], &[])
}
