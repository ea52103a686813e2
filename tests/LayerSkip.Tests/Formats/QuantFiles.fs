/// Small models in GGUF files, a format for each matrix.
module LayerSkip.Tests.QuantFiles

open System
open System.IO
open System.Runtime.InteropServices
open LayerSkip
open LayerSkip.Tests.FileSupport

/// Those of matrices.
let internal matrixFormats: GgufFormat list =
    [ GgufFormat.F32; GgufFormat.F16; GgufFormat.BF16 ]
    @ (GgufBlocks.all |> List.map GgufFormat.Quantised)

let internal nameOf (format: GgufFormat) : string = GgufFormat.name (GgufFormat.kind format)

let private packed (format: GgufFormat) (values: float32[]) : byte[] =
    match format with
    | GgufFormat.F32 -> MemoryMarshal.AsBytes(values.AsSpan()).ToArray()
    | GgufFormat.F16 ->
        values |> Array.collect (fun value -> BitConverter.GetBytes(Half.op_Explicit value: Half))
    | GgufFormat.BF16 -> values |> Array.collect (fun value -> (BitConverter.GetBytes value)[2..])
    | GgufFormat.Quantised blocks -> GgufQuants.pack blocks (ReadOnlyMemory values)

/// The metadata of a float32 GGUF file, and its tensors with another format for each matrix: what `format` has for llama.cpp's name, or
/// Q8_0 where its blocks are longer than the rows.
let private converted (format: string -> GgufFormat) (source: string) =
    let bytes = File.ReadAllBytes source
    let header = SourceFile.using source "" GgufHeader.read |> Check.getOrRaise
    let data = (header.End + 31L) / 32L * 32L

    let item (info: GgufTensorInfo) : TensorItem<GgufFormat> =
        let shape = info.Dims |> Array.rev |> Array.map int64

        let format =
            match format info.Name with
            | _ when shape.Length = 1 -> GgufFormat.F32
            | GgufFormat.Quantised blocks when Array.last shape % int64 blocks.Values <> 0L ->
                GgufFormat.Quantised GgufBlocks.q8_0
            | format -> format

        let values () =
            let count = Array.fold (*) 1L shape
            MemoryMarshal
                .Cast<byte, float32>(ReadOnlySpan(bytes, int data + int info.Offset, int (4L * count)))
                .ToArray()

        {
            Name = info.Name
            Shape = shape
            Format = format
            Size = GgufFormat.size format shape
            Write = fun file -> file.Write(ReadOnlySpan(packed format (values ())))
        }

    Map.toList header.Metadata, [ for info in header.Infos -> item info ]

/// Seeded random weights, in so many files that stand for one model; the path of the first.
let internal withParts
    (parts: int)
    (config: LlamaConfig)
    (seed: int)
    (format: string -> GgufFormat)
    (body: string -> 'T)
    : 'T =
    withFolder (fun folder ->
        let plain = Path.Combine(folder, "plain.gguf")

        let path part =
            if parts = 1 then
                Path.Combine(folder, "model.gguf")
            else
                Path.Combine(folder, $"model-{part:D5}-of-{parts:D5}.gguf")

        use weights = Weights.random (int64 seed) 0.8 Dtype.F32 Device.Cpu config

        Export.write ExportFormat.Gguf config.Layers plain (Checkpoint.ofWeights "tiny" weights None)
        |> Check.getOrRaise
        |> ignore

        let metadata, tensors = converted format plain

        for part, tensors in List.indexed (List.splitInto parts tensors) do
            let split = [
                if parts > 1 then
                    "split.no", GgufValue.Int(int64 part)
                    "split.count", GgufValue.Int(int64 parts)
            ]

            GgufWriter.write (path (part + 1)) ((if part = 0 then metadata else []) @ split) tensors
            |> Check.getOrRaise
            |> ignore

        body (path 1))

/// The same in one file.
let internal withFile config seed format (body: string -> 'T) : 'T = withParts 1 config seed format body

/// Any of some formats for each matrix, by its name.
let internal mixOf (seed: int) (formats: GgufFormat list) (name: string) : GgufFormat =
    let random = Random(Seq.fold (fun hash (letter: char) -> hash * 31 + int letter) seed name)
    formats[random.Next formats.Length]

/// Columns of 256, so that no format falls back.
let wide: LlamaConfig = { LlamaConfig.Llama(40, 3, 256, 256, 2, 1, 96) with TiedHead = true }

/// Columns of 32s.
let narrow: LlamaConfig = { LlamaConfig.Llama(40, 3, 96, 160, 3, 3, 96) with TiedHead = true }

let private qwen2 (config: LlamaConfig) = {
    config with
        Family = Family.Qwen2
        QkvBias = true
        NormEps = 1e-6
}

/// One of each kind that the loader has a way for.
let families: (string * LlamaConfig) list = [
    "llama", wide
    "llama, untied", { wide with TiedHead = false }
    "llama, narrow", narrow
    "llama with biases, whose rows stand in pairs",
    { wide with QkvBias = true; OutputBias = true; MlpBias = true }
    "qwen2", qwen2 wide
    "qwen2, narrow", qwen2 narrow
    "qwen3", { wide with Family = Family.Qwen3; QkNorm = true; NormEps = 1e-6 }
    "phi3", { wide with Family = Family.Phi3; TiedHead = false }
]
