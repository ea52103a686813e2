namespace LayerSkip

/// A value for each tensor of a decoder layer. What reads the same input is one tensor: q, k, v and gate, up.
[<NoEquality; NoComparison>]
type LayerParts<'T> = {
    /// [hidden]
    AttentionNorm: 'T
    /// [(heads + 2 kvHeads) * headDim; hidden]: q, then k, then v.
    Qkv: 'T
    QkvBias: 'T option
    /// [headDim] each, where the family norms q and k (Qwen3).
    QNorm: 'T option
    KNorm: 'T option
    /// [hidden; heads * headDim]
    Output: 'T
    OutputBias: 'T option
    /// [hidden]
    MlpNorm: 'T
    /// [2 intermediate; hidden]: gate, then up.
    GateUp: 'T
    GateUpBias: 'T option
    /// [hidden; intermediate]
    Down: 'T
    DownBias: 'T option
}

/// What goes over all parts of a layer goes through `map2`, so that nothing is matched by position.
[<RequireQualifiedAccess>]
module LayerParts =
    /// Of two layers of one shape, field by field in the order of the record. A field that either lacks is lacking.
    let map2 (f: 'A -> 'B -> 'C) (a: LayerParts<'A>) (b: LayerParts<'B>) : LayerParts<'C> = {
        AttentionNorm = f a.AttentionNorm b.AttentionNorm
        Qkv = f a.Qkv b.Qkv
        QkvBias = Option.map2 f a.QkvBias b.QkvBias
        QNorm = Option.map2 f a.QNorm b.QNorm
        KNorm = Option.map2 f a.KNorm b.KNorm
        Output = f a.Output b.Output
        OutputBias = Option.map2 f a.OutputBias b.OutputBias
        MlpNorm = f a.MlpNorm b.MlpNorm
        GateUp = f a.GateUp b.GateUp
        GateUpBias = Option.map2 f a.GateUpBias b.GateUpBias
        Down = f a.Down b.Down
        DownBias = Option.map2 f a.DownBias b.DownBias
    }

    /// Each part that is there, in the order of the record.
    let map (f: 'A -> 'B) (parts: LayerParts<'A>) : LayerParts<'B> = map2 (fun part _ -> f part) parts parts

    /// Those that are there, in the order of the record.
    let toList (parts: LayerParts<'T>) : 'T list =
        let found = ResizeArray()
        map found.Add parts |> ignore
        List.ofSeq found

/// A value for each tensor of a decoder.
[<NoEquality; NoComparison>]
type DecoderParts<'T> = {
    /// [vocabulary; hidden]
    Embedding: 'T
    /// [hidden]
    Norm: 'T
    /// [vocabulary; hidden]; None: the embedding is the head too.
    Head: 'T option
    Layers: LayerParts<'T>[]
}

/// The same of a whole decoder: embedding, last norm, head, then the layers.
[<RequireQualifiedAccess>]
module DecoderParts =
    /// Of two decoders of one shape, in the order of the record.
    let map2 (f: 'A -> 'B -> 'C) (a: DecoderParts<'A>) (b: DecoderParts<'B>) : DecoderParts<'C> = {
        Embedding = f a.Embedding b.Embedding
        Norm = f a.Norm b.Norm
        Head = Option.map2 f a.Head b.Head
        Layers = Array.map2 (LayerParts.map2 f) a.Layers b.Layers
    }

    /// Each part that is there, in the order of the record.
    let map (f: 'A -> 'B) (parts: DecoderParts<'A>) : DecoderParts<'B> =
        map2 (fun part _ -> f part) parts parts

    /// Parts of two decoders of one shape in pairs: weights with their gradients, for one.
    let zip (a: DecoderParts<'A>) (b: DecoderParts<'B>) : DecoderParts<'A * 'B> = map2 (fun a b -> a, b) a b

    /// Those that are there, each once, in the order of the record.
    let toList (parts: DecoderParts<'T>) : 'T list = [
        parts.Embedding
        parts.Norm
        yield! Option.toList parts.Head
        yield! Seq.collect LayerParts.toList parts.Layers
    ]

/// One of a checkpoint's tensors: its Hugging Face name, and its shape, rows first.
type CheckpointPart = string * int64 list

/// What a checkpoint of a configuration holds: names and shapes of transformers' modeling_llama.py.
[<RequireQualifiedAccess>]
module CheckpointPart =
    /// Parts whose family joins them in its files are one.
    let private joined (config: LlamaConfig) (parts: CheckpointPart list) : CheckpointPart list =
        parts
        |> List.groupBy (fst >> Architecture.fileName (Architecture.ofFamily config.Family))
        |> List.map (fun (name, parts) ->
            let shape = snd parts.Head
            name, List.sumBy (snd >> List.head) parts :: shape.Tail)

    /// For each tensor of a decoder the checkpoint's tensors that make it, stacked by rows. Tensors that the family
    /// joins in its files (Phi-3's qkv_proj, gate_up_proj) are one, of the sum of the rows.
    let ofConfig (config: LlamaConfig) : DecoderParts<CheckpointPart list> =
        let h, i, v = int64 config.Hidden, int64 config.Intermediate, int64 config.Vocabulary
        let dim = int64 config.HeadDim
        let q, kv = int64 config.Heads * dim, int64 config.KvHeads * dim
        let given condition parts = if condition then Some parts else None

        let layer index : LayerParts<CheckpointPart list> =
            let name part = $"model.layers.{index}.{part}"
            let attention part = name $"self_attn.{part}"
            let mlp part = name $"mlp.{part}"

            {
                AttentionNorm = [ name "input_layernorm.weight", [ h ] ]
                Qkv = [
                    attention "q_proj.weight", [ q; h ]
                    attention "k_proj.weight", [ kv; h ]
                    attention "v_proj.weight", [ kv; h ]
                ]
                QkvBias =
                    given config.QkvBias [
                        attention "q_proj.bias", [ q ]
                        attention "k_proj.bias", [ kv ]
                        attention "v_proj.bias", [ kv ]
                    ]
                QNorm = given config.QkNorm [ attention "q_norm.weight", [ dim ] ]
                KNorm = given config.QkNorm [ attention "k_norm.weight", [ dim ] ]
                Output = [ attention "o_proj.weight", [ h; q ] ]
                OutputBias = given config.OutputBias [ attention "o_proj.bias", [ h ] ]
                MlpNorm = [ name "post_attention_layernorm.weight", [ h ] ]
                GateUp = [ mlp "gate_proj.weight", [ i; h ]; mlp "up_proj.weight", [ i; h ] ]
                GateUpBias = given config.MlpBias [ mlp "gate_proj.bias", [ i ]; mlp "up_proj.bias", [ i ] ]
                Down = [ mlp "down_proj.weight", [ h; i ] ]
                DownBias = given config.MlpBias [ mlp "down_proj.bias", [ h ] ]
            }

        {
            Embedding = [ "model.embed_tokens.weight", [ v; h ] ]
            Norm = [ "model.norm.weight", [ h ] ]
            Head = given (not config.TiedHead) [ "lm_head.weight", [ v; h ] ]
            Layers = Array.init config.Layers layer
        }
        |> DecoderParts.map (joined config)
