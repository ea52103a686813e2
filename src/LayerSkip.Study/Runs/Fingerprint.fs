namespace LayerSkip

open System
open System.IO
open System.Security.Cryptography

/// What tells files of one name apart, as runs keep it: two runs belong together where they read the same. SHA-256, in
/// hexadecimal.
[<RequireQualifiedAccess>]
module Fingerprint =
    let private hint = "it was there when the run began"

    // Of each end of a file of weights: training moves all of them, and to read gigabytes takes longer than many a run.
    let private ends = 1 <<< 20

    let private hashed (append: IncrementalHash -> Result<unit, LayerSkipError list>) =
        use hash = IncrementalHash.CreateHash HashAlgorithmName.SHA256

        append hash |> Result.map (fun () -> Convert.ToHexStringLower(hash.GetHashAndReset()))

    /// Of all bytes of a file.
    let ofFile (path: string) : Result<string, LayerSkipError list> =
        hashed (fun hash -> SourceFile.readAll path hint |> Result.map hash.AppendData)

    let private weightsOf (path: string) : Result<string list, LayerSkipError list> =
        match PathKind.find path with
        | PathKind.Folder -> SourceFile.list path "*.safetensors"
        | PathKind.RegularFile -> Ok(GgufParts.all path)
        | PathKind.Nothing
        | PathKind.Special -> Ok []

    /// Of a model's files of weights: the length of each, and its first and last MiB. Of a model that lies in no file, that of
    /// nothing.
    let ofModel (path: string) : Result<string, LayerSkipError list> =
        let add (hash: IncrementalHash) (file: string) =
            SourceFile.using file hint (fun source ->
                hash.AppendData(BitConverter.GetBytes source.Length)
                let count = int (min source.Length (int64 ends))
                let bytes = Array.zeroCreate<byte> count

                for start in [ 0L; source.Length - int64 count ] do
                    source.Copy(start, bytes.AsSpan())
                    hash.AppendData bytes

                Ok())

        weightsOf path
        |> Result.bind (fun files -> hashed (fun hash -> Check.each (add hash) files))

    /// The last name of a path, by which a run calls what lies there; of a model in the hub's cache its name there.
    let name (path: string) : string =
        match Hub.nameOf path, Path.GetFileName(Path.TrimEndingDirectorySeparator path) with
        | Some name, _ -> name
        | None, null
        | None, "" -> path
        | None, name -> name
