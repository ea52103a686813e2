// Files of the folder of texts and evaluations, ../shared/data, for `#load` after options.fsx.
module Data

#if READY
#load "library.fsx"

open System
open System.IO
open System.IO.Compression
open System.Text.Json
open Options

/// The path of a file that must be there.
let file (folder: string) (name: string) : string =
    let path = Path.Combine(folder, name)

    if not (File.Exists path) then
        stop 2 $"{path} is not there; give the folder of texts and evaluations, ../shared/data"

    path

/// A text of a line of JSON; of several the first.
let field (name: string) (line: string) : string =
    use document = JsonDocument.Parse line
    let value = document.RootElement.GetProperty name

    if value.ValueKind = JsonValueKind.Array then
        value[0].GetString()
    else
        value.GetString()

/// The lines of a packed file that say something.
let packedLines (path: string) : string[] =
    use stream = new GZipStream(File.OpenRead path, CompressionMode.Decompress)
    use reader = new StreamReader(stream)
    reader.ReadToEnd().Split('\n', StringSplitOptions.RemoveEmptyEntries)
#endif
