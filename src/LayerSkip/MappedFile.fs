namespace LayerSkip

open System
open System.IO

[<RequireQualifiedAccess>]
module internal MappedFile =
    /// What the file system throws, as one line; None for a bug of ours.
    let fault (e: exn) : string option =
        match e with
        | :? IOException
        | :? UnauthorizedAccessException
        | :? ArgumentException
        | :? NotSupportedException -> Some(e.Message.ReplaceLineEndings " ")
        | _ -> None
