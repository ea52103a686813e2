namespace LayerSkip

open System.IO
open System.Reflection

/// Files that this assembly holds.
[<RequireQualifiedAccess>]
module internal Embedded =
    /// The bytes of one; its reader disposes it.
    let stream (name: string) : Stream = Assembly.GetExecutingAssembly().GetManifestResourceStream name

    /// The text of one, in UTF-8.
    let text (name: string) : string =
        use reader = new StreamReader(stream name)
        reader.ReadToEnd()
