namespace LayerSkip

open System
open System.Buffers
open System.Text

[<RequireQualifiedAccess>]
module internal Utf8Text =
    /// How many bytes at the end begin a character that more bytes could complete: 0 to 3.
    let unfinished (bytes: byte[]) : int =
        let begins count =
            let tail = ReadOnlySpan(bytes, bytes.Length - count, count)
            let mutable rune = Rune()
            let mutable consumed = 0
            Rune.DecodeFromUtf8(tail, &rune, &consumed) = OperationStatus.NeedMoreData

        [ 3; 2; 1 ]
        |> List.tryFind (fun count -> count <= bytes.Length && begins count)
        |> Option.defaultValue 0
