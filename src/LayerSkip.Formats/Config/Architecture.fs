namespace LayerSkip

/// Whether models of a family have a part.
[<RequireQualifiedAccess>]
type Presence =
    | Never
    | Always
    /// Some have it: a file says whether.
    | Either

/// Of q, k and v; of the attention's output; of the MLP.
type Biases = { Qkv: Presence; Output: Presence; Mlp: Presence }

/// How config.json says which layers look through a sliding window.
[<RequireQualifiedAccess>]
type WindowFields =
    | Nowhere
    /// Every layer, where `sliding_window` is a number.
    | Everywhere
    /// Those of `layer_types`, or from `max_window_layers` on, where `use_sliding_window` is true.
    | ByLayer

/// What llama.cpp's graph for a family has a place for, and how its files spell it.
type GgufArchitecture = {
    /// `general.architecture`, and what the keys of its metadata begin with.
    Name: string
    Biases: Biases
    /// Whether the converter puts rows of q and k that rotate together side by side.
    PairsRows: bool
    /// Whether `rope_freqs.weight` divides its rotary angles.
    DividesAngles: bool
    /// Whether `attention.sliding_window` is always there, 0 for none.
    NamesWindow: bool
    /// Tensors of a layer that other architectures name otherwise: llama.cpp's part of the name, and Hugging Face's.
    Names: (string * string) list
}

/// All that tells one family of decoders from another: how config.json, tensors and GGUF files spell it.
type Architecture = {
    Family: Family
    /// config.json's `model_type`.
    Name: string
    /// transformers' class.
    Class: string
    /// Where config.json does not say: of so many heads, how many keys and values have; a head's size (None: hidden / heads);
    /// the context; the norms' epsilon.
    KvHeads: int -> int
    HeadDim: int option
    Context: int
    NormEps: float
    Biases: Biases
    QkNorm: bool
    Windows: WindowFields
    /// transformers' names of the ways in which it stretches rotary angles.
    RopeTypes: string list
    /// Tensors that its files hold as one, stacked by rows, under another name.
    Joined: (string * string list) list
    /// Fields of config.json that transformers' own defaults would get wrong; None: null.
    Fields: LlamaConfig -> (string * int option) list
    Gguf: GgufArchitecture
}

/// The table of families. A family that differs in names, biases, norms, windows or joined tensors is an entry here,
/// and nothing else; one that computes otherwise needs `Decoder` too.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Architecture =
    let private noBias = { Qkv = Presence.Never; Output = Presence.Never; Mlp = Presence.Never }

    let private anyBias = { Qkv = Presence.Either; Output = Presence.Either; Mlp = Presence.Either }

    let private plainGguf name = {
        Name = name
        Biases = noBias
        PairsRows = false
        DividesAngles = false
        NamesWindow = false
        Names = []
    }

    let private llama = {
        Family = Family.Llama
        Name = "llama"
        Class = "LlamaForCausalLM"
        KvHeads = id
        HeadDim = None
        Context = 2048
        NormEps = 1e-6
        Biases = anyBias
        QkNorm = false
        Windows = WindowFields.Nowhere
        RopeTypes = [ "default"; "linear"; "dynamic"; "llama3"; "yarn" ]
        Joined = []
        Fields = fun _ -> []
        Gguf = { plainGguf "llama" with Biases = anyBias; PairsRows = true; DividesAngles = true }
    }

    /// Every family; of those that share an architecture in llama.cpp the first is what its files are read as.
    let all: Architecture list = [
        llama
        {
            llama with
                Family = Family.Mistral
                Name = "mistral"
                Class = "MistralForCausalLM"
                KvHeads = min 8
                Biases = noBias
                Windows = WindowFields.Everywhere
        }
        {
            llama with
                Family = Family.Qwen2
                Name = "qwen2"
                Class = "Qwen2ForCausalLM"
                Biases = { noBias with Qkv = Presence.Always }
                Windows = WindowFields.ByLayer
                Gguf = { plainGguf "qwen2" with Biases = { noBias with Qkv = Presence.Always } }
        }
        {
            llama with
                Family = Family.Qwen3
                Name = "qwen3"
                Class = "Qwen3ForCausalLM"
                HeadDim = Some 128
                Biases = { noBias with Qkv = Presence.Either; Output = Presence.Either }
                QkNorm = true
                Windows = WindowFields.ByLayer
                Gguf = plainGguf "qwen3"
        }
        {
            llama with
                Family = Family.Phi3
                Name = "phi3"
                Class = "Phi3ForCausalLM"
                Context = 4096
                NormEps = 1e-5
                Biases = noBias
                Windows = WindowFields.Everywhere
                // Its other type, longrope (once su, or yarn), has two tables of factors and switches between them.
                RopeTypes = [ "default" ]
                Joined = [
                    "self_attn.qkv_proj", [ "self_attn.q_proj"; "self_attn.k_proj"; "self_attn.v_proj" ]
                    "mlp.gate_up_proj", [ "mlp.gate_proj"; "mlp.up_proj" ]
                ]
                // The default padding token is 32000, outside a smaller vocabulary.
                Fields =
                    fun config -> [
                        "original_max_position_embeddings", Some config.Context
                        "pad_token_id", None
                    ]
                Gguf = {
                    plainGguf "phi3" with
                        NamesWindow = true
                        Names = [ "attn_qkv", "self_attn.qkv_proj"; "ffn_up", "mlp.gate_up_proj" ]
                }
        }
    ]

    /// The entry of a family; each has one.
    let ofFamily (family: Family) : Architecture = all |> List.find (fun entry -> entry.Family = family)

    /// By config.json's `model_type`; None for a family that we do not run.
    let tryNamed (name: string) : Architecture option = all |> List.tryFind (fun entry -> entry.Name = name)

    /// By llama.cpp's name.
    let tryGguf (name: string) : Architecture option =
        all |> List.tryFind (fun entry -> entry.Gguf.Name = name)

    /// "a, b and c are", "a is".
    let internal listed (names: string list) : string =
        match List.rev names with
        | [] -> "none is"
        | [ only ] -> $"{only} is"
        | last :: others -> $"""{others |> List.rev |> String.concat ", "} and {last} are"""

    /// Whether a part may be there, or be lacking.
    let internal allows (presence: Presence) (isThere: bool) : bool =
        match presence with
        | Presence.Never -> not isThere
        | Presence.Always -> isThere
        | Presence.Either -> true

    /// Parts of a model, beside q's, k's and v's biases, that its family has no place for where it has these biases.
    let internal unlike (biases: Biases) (config: LlamaConfig) : string list = [
        if not (allows biases.Output config.OutputBias) then
            "a bias of the attention's output"
        if not (allows biases.Mlp config.MlpBias) then
            "biases of the MLP"
        if config.QkNorm <> (ofFamily config.Family).QkNorm then
            "or without norms of q and k, as this model"
    ]

    /// The name under which the family's files hold a tensor: its own, or of what it is joined to.
    let fileName (architecture: Architecture) (name: string) : string =
        architecture.Joined
        |> List.tryPick (fun (whole, parts) ->
            parts
            |> List.tryFind (fun part -> name.Contains $".{part}.")
            |> Option.map (fun part -> name.Replace(part, whole)))
        |> Option.defaultValue name

/// Names of families.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Family =
    /// config.json's `model_type`: "llama".
    let name (family: Family) : string = (Architecture.ofFamily family).Name
