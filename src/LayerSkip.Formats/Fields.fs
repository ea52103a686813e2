namespace LayerSkip

/// Reads the named values of one file: an object of JSON, the metadata of a GGUF. A value of the wrong kind, or out of
/// its bounds, is a fault, which is kept beside all others, and reads as if it were absent.
[<AbstractClass>]
type internal FieldReader<'Value>(path: string, faults: ResizeArray<LayerSkipError>) =
    /// All so far, in the order in which they were found.
    member _.Faults = List.ofSeq faults
    /// Adds a fault of the file; `text` says which field, and what it must be.
    member _.Fault(text: string) = faults.Add(LayerSkipError.BadFile(path, text))

    /// A field as it stands, unless it is absent or null.
    abstract TryField: name: string -> 'Value option
    /// A whole number of 32 bits.
    abstract TryInt: name: string -> int option

    /// What `read` makes of a field; a fault where it makes nothing of one that is there.
    member this.TryRead(name: string, wanted: string, read: 'Value -> 'T option) : 'T option =
        this.TryField name
        |> Option.bind (fun value ->
            let found = read value

            if found.IsNone then
                this.Fault $"\"{name}\" must be {wanted}"

            found)

    /// A count of 1 to `most`; without a fallback it must be there. Where there is none, 1, to go on with.
    member this.Size(name: string, ?fallback: int, ?most: int) : int =
        let most = defaultArg most System.Int32.MaxValue

        let refuse what =
            this.Fault $"\"{name}\" {what}"
            1

        match this.TryField name, fallback with
        | None, Some fallback -> fallback
        | None, None -> refuse "is missing"
        | Some _, _ ->
            match this.TryInt name with
            | Some size when size > most -> refuse $"is {size}, which is too big; it must be at most {most}"
            | Some size when size < 1 -> refuse $"is {size}, it must be at least 1"
            | Some size -> size
            | None -> 1
