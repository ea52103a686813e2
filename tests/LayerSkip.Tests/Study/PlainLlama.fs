module LayerSkip.Tests.PlainLlama

open System
open System.IO
open System.Text.Json

// A forward pass that shares nothing with the library: float64 arrays, read from the file and multiplied as the papers have
// it (Llama: arXiv 2302.13971, section 2.2; RMSNorm: 1910.07467; RoPE: 2104.09864, in the halves that Hugging Face's
// files have; SwiGLU: 2002.05202; grouped queries: 2305.13245). It is slow, and meant to be read beside them.

/// A matrix [rows; columns], or a vector as one row.
type private Matrix = { Rows: int; Columns: int; Values: float[] }

type Llama = private {
    Layers: int
    Heads: int
    KvHeads: int
    Hidden: int
    Epsilon: float
    Theta: float
    Tensor: string -> Matrix
}

/// Reads a folder's config.json and the float32 tensors of its model.safetensors.
let load (folder: string) : Llama =
    use config = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "config.json")))
    let bytes = File.ReadAllBytes(Path.Combine(folder, "model.safetensors"))
    let headerLength = int (BitConverter.ToInt64(bytes, 0))
    use header = JsonDocument.Parse(ReadOnlyMemory(bytes, 8, headerLength))

    let tensors =
        Map [
            for entry in header.RootElement.EnumerateObject() do
                if entry.Name <> "__metadata__" then
                    let shape = [
                        for n in (entry.Value.GetProperty "shape").EnumerateArray() -> n.GetInt32()
                    ]
                    let offsets = entry.Value.GetProperty "data_offsets"
                    let start = offsets[0].GetInt32() + 8 + headerLength
                    let count = List.reduce (*) shape

                    entry.Name,
                    {
                        Rows = if shape.Length = 1 then 1 else shape.Head
                        Columns = List.last shape
                        Values =
                            Array.init count (fun i -> float (BitConverter.ToSingle(bytes, start + 4 * i)))
                    }
        ]

    let number (name: string) = (config.RootElement.GetProperty name).GetDouble()

    {
        Layers = int (number "num_hidden_layers")
        Heads = int (number "num_attention_heads")
        KvHeads = int (number "num_key_value_heads")
        Hidden = int (number "hidden_size")
        Epsilon = number "rms_norm_eps"
        Theta = number "rope_theta"
        Tensor = fun name -> tensors[name]
    }

let private times (matrix: Matrix) (x: float[]) : float[] =
    Array.init matrix.Rows (fun row ->
        let mutable sum = 0.0

        for column in 0 .. matrix.Columns - 1 do
            sum <- sum + matrix.Values[row * matrix.Columns + column] * x[column]

        sum)

let private plus = Array.map2 (fun (a: float) b -> a + b)

/// x / sqrt(mean of x^2 + epsilon) * gain
let private norm (model: Llama) (gain: Matrix) (x: float[]) : float[] =
    let root = sqrt (Array.averageBy (fun v -> v * v) x + model.Epsilon)
    Array.map2 (fun v g -> v / root * g) x gain.Values

let private silu (x: float) = x / (1.0 + exp -x)

/// Turns each pair (i, i + half) of a head by position / theta^(2 i / dim).
let private rotate (model: Llama) (position: int) (head: float[]) : float[] =
    let half = head.Length / 2

    Array.init head.Length (fun i ->
        let pair = i % half
        let angle = float position / model.Theta ** (2.0 * float pair / float head.Length)
        let a, b = head[pair], head[pair + half]
        if i < half then
            a * cos angle - b * sin angle
        else
            b * cos angle + a * sin angle)

let private softmax (x: float[]) : float[] =
    let largest = Array.max x
    let weights = x |> Array.map (fun v -> exp (v - largest))
    let total = Array.sum weights
    Array.map (fun w -> w / total) weights

let private dot (a: float[]) (b: float[]) = Array.fold2 (fun sum x y -> sum + x * y) 0.0 a b

/// A layer over the states of a whole text, [position][hidden].
let private layer (model: Llama) (index: int) (states: float[][]) : float[][] =
    let tensor name = model.Tensor $"model.layers.{index}.{name}.weight"
    let dim = model.Hidden / model.Heads
    let normed = states |> Array.map (norm model (tensor "input_layernorm"))
    let heads name = normed |> Array.map (times (tensor $"self_attn.{name}_proj") >> Array.chunkBySize dim)
    let turned = Array.mapi (fun position -> Array.map (rotate model position))
    let q, k, v = turned (heads "q"), turned (heads "k"), heads "v"

    let attended =
        Array.init states.Length (fun position ->
            Array.init model.Heads (fun head ->
                let shared = head / (model.Heads / model.KvHeads)

                let query, keys = q[position][head], k |> Array.map (Array.item shared)
                let values = v |> Array.map (Array.item shared)

                let weights =
                    keys[..position] |> Array.map (fun key -> dot query key / sqrt (float dim)) |> softmax

                Array.init dim (fun i ->
                    Array.fold2 (fun sum w (x: float[]) -> sum + w * x[i]) 0.0 weights values[..position]))
            |> Array.concat
            |> times (tensor "self_attn.o_proj"))

    let middle = Array.map2 plus states attended

    middle
    |> Array.map (fun x ->
        let x' = norm model (tensor "post_attention_layernorm") x
        let gate = times (tensor "mlp.gate_proj") x' |> Array.map silu
        let up = times (tensor "mlp.up_proj") x'
        plus x (times (tensor "mlp.down_proj") (Array.map2 (*) gate up)))

/// ln p of each id but the first, after those before it, at each exit: [exit][position - 1].
let logLikelihoods (model: Llama) (ids: int[]) : float[][] =
    let embedding = model.Tensor "model.embed_tokens.weight"
    let row id = embedding.Values[id * model.Hidden .. (id + 1) * model.Hidden - 1]

    let said (states: float[][]) =
        Array.init (ids.Length - 1) (fun position ->
            let logits = states[position] |> norm model (model.Tensor "model.norm.weight") |> times embedding
            let largest = Array.max logits
            let total = logits |> Array.sumBy (fun v -> exp (v - largest))
            logits[ids[position + 1]] - largest - log total)

    [| 0 .. model.Layers - 1 |]
    |> Array.mapFold
        (fun states index -> let after = layer model index states in said after, after)
        (Array.map row ids)
    |> fst
