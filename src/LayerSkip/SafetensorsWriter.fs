namespace LayerSkip

open System
open System.Buffers
open System.Text.Json
open TorchSharp

[<RequireQualifiedAccess>]
module internal SafetensorsWriter =
    let private format (dtype: torch.ScalarType) : string option =
        match dtype with
        | torch.ScalarType.Float64 -> Some "F64"
        | torch.ScalarType.Float32 -> Some "F32"
        | torch.ScalarType.Float16 -> Some "F16"
        | torch.ScalarType.BFloat16 -> Some "BF16"
        | _ -> None

    let private checkWritable (path: string) (tensors: (string * Tensor) list) = [
        for name, tensor in tensors do
            if (format tensor.dtype).IsNone then
                LayerSkipError.Unsupported(
                    $"tensor {name} of {tensor.dtype}",
                    "F64, F32, F16 and BF16 are written"
                )

            if name = SafetensorsHeader.metadataKey then
                LayerSkipError.BadFile(path, $"no tensor can have the name {name}")
        for name, places in List.groupBy fst tensors do
            if places.Length > 1 then
                LayerSkipError.BadFile(path, $"two tensors to write have the name {name}")
    ]

    let private headerOf (metadata: Map<string, string>) (tensors: (string * Tensor) list) : byte[] =
        let buffer = ArrayBufferWriter<byte>()
        use json = new Utf8JsonWriter(buffer)
        json.WriteStartObject()

        if not metadata.IsEmpty then
            json.WriteStartObject SafetensorsHeader.metadataKey

            for KeyValue(key, value) in metadata do
                json.WriteString(key, value)

            json.WriteEndObject()

        let mutable start = 0L

        for name, tensor in tensors do
            let after = start + tensor.numel () * tensor.element_size ()
            json.WriteStartObject name
            json.WriteString("dtype", format tensor.dtype |> Option.defaultValue "")
            json.WriteStartArray "shape"
            tensor.shape |> Array.iter json.WriteNumberValue
            json.WriteEndArray()
            json.WriteStartArray "data_offsets"
            json.WriteNumberValue start
            json.WriteNumberValue after
            json.WriteEndArray()
            json.WriteEndObject()
            start <- after

        json.WriteEndObject()
        json.Flush()
        let padding = (8 - buffer.WrittenCount % 8) % 8
        Array.append (buffer.WrittenSpan.ToArray()) (Array.create padding (byte ' '))

    /// Writes a file, whole or not at all.
    let write
        (path: string)
        (metadata: Map<string, string>)
        (tensors: (string * Tensor) list)
        : Result<unit, LayerSkipError list> =
        // Widest first, as Hugging Face's writer has it: each tensor is then aligned to its own values.
        let tensors =
            tensors
            |> List.sortWith (fun (a, x) (b, y) ->
                match compare (y.element_size ()) (x.element_size ()) with
                | 0 -> String.CompareOrdinal(a, b)
                | order -> order)

        match checkWritable path tensors with
        | [] ->
            AtomicFile.write path (fun file ->
                let header = headerOf metadata tensors
                file.Write(BitConverter.GetBytes(uint64 header.Length).AsSpan())
                file.Write(header.AsSpan())

                for _, tensor in tensors do
                    FileWriter.tensor file tensor)
        | faults -> Error faults
