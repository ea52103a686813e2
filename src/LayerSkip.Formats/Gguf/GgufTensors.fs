namespace LayerSkip

open System

/// llama.cpp's names of tensors, and Hugging Face's.
[<RequireQualifiedAccess>]
module internal GgufName =
    let private parts =
        Map [
            "attn_norm", "input_layernorm"
            "attn_q", "self_attn.q_proj"
            "attn_k", "self_attn.k_proj"
            "attn_v", "self_attn.v_proj"
            "attn_output", "self_attn.o_proj"
            "attn_q_norm", "self_attn.q_norm"
            "attn_k_norm", "self_attn.k_norm"
            "ffn_norm", "post_attention_layernorm"
            "ffn_gate", "mlp.gate_proj"
            "ffn_up", "mlp.up_proj"
            "ffn_down", "mlp.down_proj"
        ]

    let private partsOf (gguf: GgufArchitecture) =
        (parts, gguf.Names) ||> List.fold (fun parts (ggml, ours) -> Map.add ggml ours parts)

    /// A name that is not known stays as it is, for the loader to report. "blk.3.attn_q.weight" is
    /// "model.layers.3.self_attn.q_proj.weight".
    let huggingFace (gguf: GgufArchitecture) : string -> string =
        let parts = partsOf gguf

        fun name ->
            match name.Split '.' with
            | [| "token_embd"; "weight" |] -> "model.embed_tokens.weight"
            | [| "output_norm"; "weight" |] -> "model.norm.weight"
            | [| "output"; "weight" |] -> "lm_head.weight"
            | [| "blk"; layer; part; kind |] when parts.ContainsKey part ->
                $"model.layers.{layer}.{parts[part]}.{kind}"
            | _ -> name

    /// llama.cpp's name of one of a model's tensors; None of what is none.
    let tryGgml (gguf: GgufArchitecture) : string -> string option =
        let parts = Map [ for KeyValue(ggml, ours) in partsOf gguf -> ours, ggml ]

        fun name ->
            match List.ofArray (name.Split '.') with
            | [ "model"; "embed_tokens"; kind ] -> Some $"token_embd.{kind}"
            | [ "model"; "norm"; kind ] -> Some $"output_norm.{kind}"
            | [ "lm_head"; kind ] -> Some $"output.{kind}"
            | "model" :: "layers" :: layer :: (_ :: _ as rest) ->
                let part = rest |> List.take (rest.Length - 1) |> String.concat "."
                parts.TryFind part |> Option.map (fun part -> $"blk.{layer}.{part}.{List.last rest}")
            | _ -> None

    /// The same of what is one.
    let ggml (gguf: GgufArchitecture) (name: string) : string =
        match tryGgml gguf name with
        | Some name -> name
        | None -> invalidArg (nameof name) $"{name} is no tensor of a decoder"

    /// Faults in the words of a GGUF file of a family: its tensors by its names.
    let inFaults (family: Family) (faults: LayerSkipError list) : LayerSkipError list =
        let tryName = tryGgml (Architecture.ofFamily family).Gguf
        let rename name = tryName name |> Option.defaultValue name
        faults |> List.map (LayerSkipError.withTensorNames rename)

    /// llama.cpp's name of the table of divisors.
    let ropeTable = "rope_freqs.weight"

    /// The table of divisors that a llama.cpp model may carry beside its weights: no weight, but part of RoPE.
    let isRopeTable (name: string) : bool = name = ropeTable

/// A tensor entry that was found good.
type internal GgufTensor = {
    File: SourceFile
    /// Hugging Face's, and the file's own.
    Name: string
    Own: string
    Shape: int64[]
    Format: GgufFormat
    FormatName: string
    /// Bytes of the file.
    Start: int64
    End: int64
}

/// Tensor entries, checked against the file, as tensors with Hugging Face's names and order of rows.
[<RequireQualifiedAccess>]
module internal GgufTensors =
    /// The multiple at which tensors start; 32 where the file names none.
    let private alignment path metadata =
        match Map.tryFind "general.alignment" metadata with
        | None -> Ok 32L
        | Some(GgufValue.Int size) when size > 0L && size < (1L <<< 31) && Int64.IsPow2 size -> Ok size
        | Some _ -> Check.bad path "\"general.alignment\" must be a power of two"

    let private check (file: SourceFile) data align (rename: string -> string) (info: GgufTensorInfo) =
        let path, length = file.Path, file.Length
        let bad text = Check.bad path $"tensor {info.Name} {text}"
        let dims = info.Dims |> Array.map string |> String.concat ", "

        match GgufFormat.tryOf info.Type, StoredTensor.tryProduct 1L info.Dims with
        | None, _ -> bad $"has dtype {GgufFormat.name info.Type}; {GgufFormat.readable}"
        | Some _, None -> bad $"has dimensions [{dims}], more than a file can hold"
        | Some format, Some count ->
            let struct (values, bytes) = GgufFormat.block format
            let name = GgufFormat.name info.Type

            if values > 1L && (info.Dims.Length = 0 || info.Dims[0] % uint64 values <> 0UL) then
                bad $"has dimensions [{dims}], rows of {name} need a multiple of {values}"
            elif count / values > Int64.MaxValue / bytes then
                bad $"has dimensions [{dims}], more than a file can hold"
            elif info.Offset % uint64 align <> 0UL then
                bad $"is misaligned: its offset, {info.Offset}, is not a multiple of {align}"
            elif info.Offset > uint64 (length - data) then
                bad $"starts at byte {info.Offset} of the data, outside the file ({length} bytes)"
            else
                let start = data + int64 info.Offset
                let size = count / values * bytes

                if size > length - start then
                    bad $"needs {size} bytes at byte {start}, the file ends at {length}: it is truncated"
                else
                    Ok {
                        File = file
                        Name = rename info.Name
                        Own = info.Name
                        Shape = info.Dims |> Array.rev |> Array.map int64
                        Format = format
                        FormatName = name
                        Start = start
                        End = start + size
                    }

    let private overlaps path (tensors: GgufTensor list) =
        tensors
        |> List.filter (fun tensor -> tensor.End > tensor.Start)
        |> List.sortBy (fun tensor -> tensor.Start, tensor.End)
        |> List.pairwise
        |> List.choose (fun (a, b) ->
            if b.Start < a.End then
                Some(LayerSkipError.BadFile(path, $"the data of tensors {a.Own} and {b.Own} overlap"))
            else
                None)

    /// Checks every entry, and all of them together; `rename` gives Hugging Face's names. A bad entry hides no other:
    /// offsets, sizes, formats, names that stand twice, data that overlap.
    let ofHeader
        (file: SourceFile)
        (rename: string -> string)
        (header: GgufHeader)
        : Result<GgufTensor list, LayerSkipError list> =
        match alignment file.Path header.Metadata with
        | Error faults -> Error faults
        | Ok align ->
            // A file without tensors may end before the padding.
            let data = min file.Length ((header.End + align - 1L) / align * align)
            let results = [ for info in header.Infos -> check file data align rename info ]
            let tensors = List.choose Result.toOption results

            let doubled = [
                for _, infos in header.Infos |> Seq.groupBy (fun info -> rename info.Name) do
                    match infos |> Seq.map _.Name |> List.ofSeq with
                    | name :: _ :: _ -> LayerSkipError.BadFile(file.Path, $"tensor {name} is there twice")
                    | _ -> ()
            ]

            Check.all (doubled @ List.collect Check.faults results @ overlaps file.Path tensors) tensors

    /// In place: the rows of heads of `size` rows from llama.cpp's order, in pairs that rotate together, to two halves.
    let toHalves (size: int) (rows: Rows) (memory: RawMemory) : unit =
        if rows.First % int64 size <> 0L || rows.Count % int64 size <> 0L then
            invalidArg (nameof rows) $"{rows.First} and {rows.Count} cut a head of {size} rows"

        let width = int (memory.Length / max 1L rows.Count)
        let pairs = Array.zeroCreate<byte>(size * width)

        for head in 0L .. rows.Count / int64 size - 1L do
            let halves = RawMemory.span (head * pairs.LongLength) pairs.Length memory
            halves.CopyTo(pairs.AsSpan())

            for row in 0 .. size - 1 do
                let pair = 2 * (row % (size / 2)) + row / (size / 2)
                pairs.AsSpan(pair * width, width).CopyTo(halves.Slice(row * width, width))

    /// Heads whose rows llama.cpp's converter reorders: those of q and k of some architectures.
    let reordered (config: LlamaConfig) (name: string) (shape: int64[]) : int option =
        let rowsOf heads = Some(int64 heads * int64 config.HeadDim) = Array.tryHead shape

        let heads =
            if not (Architecture.ofFamily config.Family).Gguf.PairsRows then
                None
            elif name.Contains ".self_attn.q_proj." then
                Some config.Heads
            elif name.Contains ".self_attn.k_proj." then
                Some config.KvHeads
            else
                None

        // A wrong shape is for the loader to report.
        heads |> Option.filter (fun heads -> shape.Length <= 2 && rowsOf heads)

    /// A tensor that reads its values when asked. Rows of q and k that llama.cpp's converter pairs come back in
    /// halves, so rows can be asked for by whole heads only.
    let stored (config: LlamaConfig) (tensor: GgufTensor) : StoredTensor =
        let row = (tensor.End - tensor.Start) / max 1L (StoredTensor.every tensor.Shape).Count

        let fill (rows: Rows) (memory: RawMemory) =
            GgufQuants.read tensor.File tensor.Format (tensor.Start + rows.First * row) memory

            if (reordered config tensor.Name tensor.Shape).IsSome then
                toHalves config.HeadDim rows memory

        {
            Name = tensor.Name
            Shape = tensor.Shape
            Format = tensor.FormatName
            Dtype = GgufFormat.dtype tensor.Format
            Fill = fill
            Blocks =
                match tensor.Format with
                | GgufFormat.Quantised format ->
                    Some {
                        Format = format
                        Map = tensor.File.Map
                        Start = tensor.Start
                        PairedRows =
                            reordered config tensor.Name tensor.Shape |> Option.map (fun _ -> config.HeadDim)
                    }
                | _ -> None
        }
