namespace LayerSkip

/// Where in a model a tensor stands, as mixes of formats tell them apart.
type internal GgufPlace = {
    /// llama.cpp's name without layer and kind: "attn_v".
    Part: string
    /// From 0 on.
    Layer: int
    Layers: int
    /// Heads that share one of keys and values.
    Sharing: int
}

/// A mix of quantised formats that files are published in: one format for most matrices, and better ones where that pays.
[<Sealed>]
type GgufMix
    internal (name: string, fileType: int64, own: BlockFormat, better: GgufPlace -> BlockFormat option) =
    /// As options and file names have it: "q4_k_m".
    member _.Name = name
    /// llama.cpp's number of it, `general.file_type`.
    member internal _.FileType = fileType
    member internal _.Own = own
    /// Another format than `Own`, where a place has one.
    member internal _.Better = better
    override _.ToString() = name

/// The mixes, as llama.cpp's quantiser makes them where it has no importance matrix (llama-quant.cpp).
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module GgufMix =
    let private q3 = GgufBlocks.q3_K
    let private q4 = GgufBlocks.q4_K
    let private q5 = GgufBlocks.q5_K
    let private q6 = GgufBlocks.q6_K

    let private plain (_: GgufPlace) : BlockFormat option = None

    /// The first and the last eighth, and every third between.
    let private isFavoured (place: GgufPlace) =
        let eighth = place.Layers / 8

        place.Layer < eighth
        || place.Layer >= 7 * place.Layers / 8
        || (place.Layer - eighth) % 3 = 2

    let private isEarly (share: int) (place: GgufPlace) = place.Layer < place.Layers / share

    // Of a model of 80 layers, attn_v is an eighth of attn_q.
    let private ofValues (format: BlockFormat) (place: GgufPlace) =
        let isCheap = place.Layers = 80 && place.Sharing > 1
        if isCheap && (format = q3 || format = q4) then
            q5
        else
            format

    let private mix name fileType own (better: GgufPlace -> BlockFormat option) =
        GgufMix(
            name,
            fileType,
            own,
            fun place ->
                if place.Part = "attn_v" then
                    Some(ofValues (better place |> Option.defaultValue own) place)
                else
                    better place
        )

    let private q2_k (place: GgufPlace) =
        match place.Part with
        | "attn_v" -> Some(if place.Sharing >= 4 then q4 else q3)
        | "ffn_down"
        | "attn_output" -> Some q3
        | _ -> None

    let private q3_k_m (place: GgufPlace) =
        match place.Part with
        | "attn_v" -> Some(if place.Layer < 2 then q5 else q4)
        | "ffn_down" -> Some(if isEarly 16 place then q5 else q4)
        | "attn_output"
        | "attn_qkv" -> Some q4
        | _ -> None

    let private q3_k_l (place: GgufPlace) =
        match place.Part with
        | "attn_v"
        | "ffn_down"
        | "attn_output" -> Some q5
        | "attn_qkv" -> Some q4
        | _ -> None

    let private q4_k_s (place: GgufPlace) =
        match place.Part with
        | "attn_v" when place.Layer < 4 -> Some q5
        | "ffn_down" when isEarly 8 place -> Some q5
        | _ -> None

    /// `joined` is that of q, k and v in one.
    let private favouring (joined: BlockFormat) (place: GgufPlace) =
        match place.Part with
        | "attn_v"
        | "ffn_down" when isFavoured place -> Some q6
        | "attn_qkv" -> Some joined
        | _ -> None

    let private iq4 (place: GgufPlace) =
        match place.Part with
        | "attn_v" when place.Sharing >= 4 -> Some q5
        | "ffn_down" when isEarly 8 place -> Some q5
        | _ -> None

    /// From the largest to the smallest.
    let all: GgufMix list = [
        mix "q8_0" 7L GgufBlocks.q8_0 plain
        mix "q6_k" 18L q6 plain
        mix "q5_1" 9L GgufBlocks.q5_1 plain
        mix "q5_k_m" 17L q5 (favouring q6)
        mix "q5_k_s" 16L q5 plain
        mix "q5_0" 8L GgufBlocks.q5_0 plain
        mix "q4_1" 3L GgufBlocks.q4_1 plain
        mix "q4_k_m" 15L q4 (favouring q5)
        mix "q4_k_s" 14L q4 q4_k_s
        mix "q4_0" 2L GgufBlocks.q4_0 plain
        mix "iq4_nl" 25L GgufBlocks.iq4_NL iq4
        mix "iq4_xs" 30L GgufBlocks.iq4_XS iq4
        mix "q3_k_l" 13L q3 q3_k_l
        mix "q3_k_m" 12L q3 q3_k_m
        mix "q3_k_s" 11L q3 plain
        mix "q2_k" 10L GgufBlocks.q2_K q2_k
    ]

    /// By its name, in capitals too, as files have it.
    let tryFind (name: string) : GgufMix option =
        all
        |> List.tryFind (fun mix -> mix.Name.Equals(name, System.StringComparison.OrdinalIgnoreCase))

    /// What stands in for a format whose blocks are longer than a row.
    let private fallback (format: BlockFormat) : BlockFormat =
        if format = q4 then GgufBlocks.q5_0
        elif format = q5 then GgufBlocks.q5_1
        elif format = q6 then GgufBlocks.q8_0
        else GgufBlocks.iq4_NL

    let private fitted (columns: int64) (format: BlockFormat) : GgufFormat =
        let fits (format: BlockFormat) = columns % int64 format.Values = 0L

        if fits format then
            GgufFormat.Quantised format
        elif format.Values > 32 && fits (fallback format) then
            GgufFormat.Quantised(fallback format)
        else
            GgufFormat.F16

    /// The format that a mix has for a matrix, by llama.cpp's name: the head, or the embedding that is the head too, is Q6_K.
    let internal wanted (mix: GgufMix) (config: LlamaConfig) (name: string) : BlockFormat =
        let isHead = name = "output.weight" || config.TiedHead && name = "token_embd.weight"

        match name.Split '.' with
        | [| "blk"; layer; part; _ |] ->
            mix.Better {
                Part = part
                Layer = int layer
                Layers = config.Layers
                Sharing = config.Heads / config.KvHeads
            }
            |> Option.defaultValue mix.Own
        | _ when isHead && mix.Own <> GgufBlocks.q8_0 -> q6
        | _ -> mix.Own

    /// The format of a model's tensor, by llama.cpp's name and its shape: the one that is wanted, or what stands in for it. Vectors
    /// (norms, biases) are F32; a row that no block divides is F16.
    let internal format (mix: GgufMix) (config: LlamaConfig) (name: string) (shape: int64[]) : GgufFormat =
        if shape.Length < 2 then
            GgufFormat.F32
        else
            fitted (Array.last shape) (wanted mix config name)
