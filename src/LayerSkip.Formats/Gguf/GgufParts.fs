namespace LayerSkip

open System
open System.IO
open System.Text.RegularExpressions

/// A file of a model, open, and its front.
type internal GgufPart = { File: SourceFile; Header: GgufHeader }

/// Models in several files, as llama.cpp's gguf-split names them: NAME-00001-of-00003.gguf and so on. Any of them stands for
/// all; the first has the metadata, each its own tensors.
[<RequireQualifiedAccess>]
module internal GgufParts =
    let private named =
        Regex(
            @"^(.*)-([0-9]{5})-of-([0-9]{5})(\.gguf)$",
            RegexOptions.IgnoreCase ||| RegexOptions.CultureInvariant
        )

    /// The paths of all parts in their order, by the name of one; the path alone where that is no part's name.
    let all (path: string) : string list =
        let found = named.Match(Path.GetFileName path)
        let part (group: int) = found.Groups[group].Value

        if found.Success then
            [
                for place in 1 .. max 1 (int (part 3)) ->
                    Path.Combine(Path.GetDirectoryName path, $"{part 1}-{place:D5}-of-{part 3}{part 4}")
            ]
        else
            [ path ]

    /// Which part of how many a file is by its metadata, from 1; gguf-split writes 0 of a file that it has merged.
    let private place (path: string) (metadata: Map<string, GgufValue>) =
        let reader = GgufReader(path, "split", metadata)
        let number name = reader.TryInt(reader.Key name) |> Option.defaultValue 0
        let place, count = 1 + number "no", max 1 (number "count")
        Check.all reader.Faults (place, count)

    /// The paths of all parts of a file that has these metadata.
    let private ofMetadata (path: string) (metadata: Map<string, GgufValue>) =
        place path metadata
        |> Result.bind (fun (place, count) ->
            match all path with
            | _ when count = 1 -> Ok [ path ]
            | [ _ ] ->
                Check.bad
                    path
                    $"is part {place} of a model that is split into {count} files; so that the others are found, name it as it was: NAME-{place:D5}-of-{count:D5}.gguf"
            | parts when parts.Length <> count ->
                Check.bad path $"is one of {parts.Length} files by its name, of {count} by \"split.count\""
            | parts -> Ok parts)

    /// The metadata of the whole model, by any of its parts.
    let readMetadata (path: string) (hint: string) : Result<Map<string, GgufValue>, LayerSkipError list> =
        let read path = SourceFile.using path hint GgufHeader.readMetadata

        read path
        |> Result.bind (fun metadata ->
            ofMetadata path metadata
            |> Result.bind (fun parts -> if parts.Head = path then Ok metadata else read parts.Head))

    let private openPart (count: int) (index: int) (path: string) =
        let check (file: SourceFile) (header: GgufHeader) =
            place path header.Metadata
            |> Result.bind (fun found ->
                if found = (index + 1, count) then
                    Ok { File = file; Header = header }
                else
                    let place, all = found
                    Check.bad
                        path
                        $"is part {place} of {all} by its metadata, {index + 1} of {count} by its name")

        SourceFile.openAs path $"the model is split into {count} files, all of which are needed" (fun file ->
            GgufHeader.read file |> Result.bind (check file))

    /// What only all parts together show.
    let private faults (parts: GgufPart list) : LayerSkipError list =
        let first = parts.Head
        let reader = GgufReader(first.File.Path, "split", first.Header.Metadata)
        let held = [
            for part in parts do
                for info in part.Header.Infos -> info.Name, part.File.Path
        ]

        match reader.TryInt "split.tensors.count" with
        | Some count when count <> held.Length ->
            reader.Fault
                $"\"split.tensors.count\" is {count}, the {parts.Length} files hold {held.Length} tensors"
        | _ -> ()

        for name, places in List.groupBy fst held do
            match places |> List.map snd |> List.distinct with
            | path :: other :: _ ->
                reader.Fault $"tensor {name} is in {Path.GetFileName path} and in {Path.GetFileName other}"
            | _ -> ()

        reader.Faults

    let close (parts: GgufPart list) : unit =
        for part in parts do
            (part.File :> IDisposable).Dispose()

    /// The one file, or all parts of the model that it is a part of, in their order; all are open or none.
    let openAll (path: string) (hint: string) : Result<GgufPart list, LayerSkipError list> =
        match all path with
        | [ _ ] ->
            SourceFile.openAs path hint (fun file ->
                GgufHeader.read file
                |> Result.bind (fun header ->
                    ofMetadata path header.Metadata
                    |> Result.map (fun _ -> [ { File = file; Header = header } ])))
        | _ ->
            SourceFile.using path hint GgufHeader.readMetadata
            |> Result.bind (ofMetadata path)
            |> Result.bind (fun paths ->
                let results = paths |> List.mapi (openPart paths.Length)
                let opened = Check.list results |> Result.bind (fun parts -> Check.all (faults parts) parts)

                if Result.isError opened then
                    close (List.choose Result.toOption results)

                opened)
