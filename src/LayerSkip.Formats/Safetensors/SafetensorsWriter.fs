namespace LayerSkip

open System
open System.Buffers
open System.Text.Json

/// Writing what `SafetensorsHeader` reads: the header is padded with spaces to 8 bytes, so that the values are
/// aligned.
[<RequireQualifiedAccess>]
module internal SafetensorsWriter =
    /// What the format forbids.
    let faults (path: string) (tensors: TensorItem<Dtype> list) : LayerSkipError list = [
        for tensor in tensors do
            if tensor.Name = SafetensorsHeader.metadataKey then
                LayerSkipError.BadFile(path, $"no tensor can have the name {tensor.Name}")
        for name, places in tensors |> List.groupBy _.Name do
            if places.Length > 1 then
                LayerSkipError.BadFile(path, $"two tensors to write have the name {name}")
    ]

    let private headerOf (metadata: Map<string, string>) (tensors: TensorItem<Dtype> list) : byte[] =
        let buffer = ArrayBufferWriter<byte>()
        use json = new Utf8JsonWriter(buffer)
        json.WriteStartObject()

        if not metadata.IsEmpty then
            json.WriteStartObject SafetensorsHeader.metadataKey

            for KeyValue(key, value) in metadata do
                json.WriteString(key, value)

            json.WriteEndObject()

        let mutable start = 0L

        for tensor in tensors do
            let after = start + tensor.Size
            json.WriteStartObject tensor.Name
            json.WriteString("dtype", SafetensorsHeader.formatOf tensor.Format)
            json.WriteStartArray "shape"
            tensor.Shape |> Array.iter json.WriteNumberValue
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
        (tensors: TensorItem<Dtype> list)
        : Result<unit, LayerSkipError list> =
        // Widest first, as Hugging Face's writer has it: each tensor is then aligned to its own values.
        let tensors =
            tensors
            |> List.sortWith (fun a b ->
                match compare (Dtype.bytes b.Format) (Dtype.bytes a.Format) with
                | 0 -> String.CompareOrdinal(a.Name, b.Name)
                | order -> order)

        Check.all (faults path tensors) ()
        |> Result.bind (fun () ->
            AtomicFile.write path (fun file ->
                let header = headerOf metadata tensors
                file.Write(BitConverter.GetBytes(uint64 header.Length).AsSpan())
                file.Write(header.AsSpan())

                for tensor in tensors do
                    tensor.Write file))
