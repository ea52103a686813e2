namespace LayerSkip

open System
open System.IO
open System.Text.RegularExpressions

/// A model on a hub, as it is written: org/name, org/name@revision, org/name:Q4_K_M, org/name@revision:file.gguf.
type HubName = {
    /// As "org/name".
    Repository: string
    /// A branch, a tag or a commit; "main" where none is written.
    Revision: string
    /// A .gguf file of the repository, or what its name says of its quantisation.
    File: string option
}

[<RequireQualifiedAccess>]
module HubName =
    /// The hub that is asked where nothing names another.
    let internal defaultEndpoint = "https://huggingface.co"

    /// The branch that is meant where no revision is written.
    let defaultRevision = "main"

    // What the hub allows: https://huggingface.co/docs/huggingface_hub, "validate_repo_id".
    let private part = Regex(@"^(?!.*(--|\.\.))[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?$")

    // Of what git allows in names of branches and tags, what is a safe name of a file too.
    let private revision = Regex(@"^(?!.*(\.\.|//|/\.|\.lock$|[./]$))[A-Za-z0-9_][A-Za-z0-9._/+-]*$")

    let private commit = Regex "^[0-9a-f]{40}$"

    /// Whether a revision is a whole commit, whose files never change.
    let isCommit (revision: string) : bool = commit.IsMatch revision

    /// A file's path inside a repository, each part a plain name: nothing that leads out of a folder.
    let isFile (path: string) : bool =
        path <> ""
        && path.Split '/'
           |> Array.forall (fun part ->
               part <> ""
               && not (part.StartsWith '.')
               && not (part.Contains '\\' || part.Contains ':' || Seq.exists Char.IsControl part))

    let private cutAt (separator: char) (text: string) : string * string option =
        match text.IndexOf separator with
        | -1 -> text, None
        | at -> text[.. at - 1], Some text[at + 1 ..]

    /// Repository, revision and file as they stand in a text, unchecked.
    let private parted (text: string) =
        let front, file = cutAt ':' text
        let repository, revision = cutAt '@' front
        repository, revision, file

    /// Whether a text is an address, as browsers show and copy it.
    let private isAddress (text: string) =
        [ "https://"; "http://" ]
        |> List.exists (fun scheme -> text.StartsWith(scheme, StringComparison.OrdinalIgnoreCase))

    /// The same of the address of a model's page on a hub, of a branch of it, or of a file.
    let private ofPage (endpoint: string) (text: string) =
        let hub = Uri endpoint
        let root = hub.AbsolutePath.TrimEnd '/' + "/"

        match Uri.TryCreate(text, UriKind.Absolute) with
        | true, page when
            page.IdnHost = hub.IdnHost
            && (page.Port = hub.Port || page.IsDefaultPort && hub.IsDefaultPort)
            && page.AbsolutePath.StartsWith(root, StringComparison.Ordinal)
            ->
            let steps =
                page.AbsolutePath.Substring(root.Length).Split('/', StringSplitOptions.RemoveEmptyEntries)
                |> Array.map Uri.UnescapeDataString
                |> List.ofArray

            match steps with
            | [ maker; model ] -> Some($"{maker}/{model}", None, None)
            | [ maker; model; "tree"; revision ] -> Some($"{maker}/{model}", Some revision, None)
            | maker :: model :: ("blob" | "resolve") :: revision :: (_ :: _ as file) ->
                Some($"{maker}/{model}", Some revision, Some(String.concat "/" file))
            | _ -> None
        | _ -> None

    let private check (text: string) (repository: string, named: string option, file: string option) =
        let parts = repository.Split '/'

        let faults = [
            if not (parts.Length = 2 && parts |> Array.forall (fun (text: string) -> part.IsMatch text)) then
                "this is no name of a model on a hub: a maker and a model of letters, digits, \"-\", \"_\" and \".\", with a slash between"
            if not (named |> Option.forall (fun (text: string) -> revision.IsMatch text)) then
                "what follows \"@\" is no branch, tag or commit"
            if not (file |> Option.forall isFile) then
                "what follows \":\" is neither a file nor a quantisation"
        ]

        if faults.IsEmpty then
            Ok { Repository = repository; Revision = defaultArg named defaultRevision; File = file }
        else
            let why = String.concat ", and " faults
            let form = "write org/name, org/name@REVISION, or org/name:FILE.gguf"
            Error [ LayerSkipError.NotOnHub(text, $"{why}; {form}") ]

    /// Reads a name, or the address of its page on the hub at `endpoint`; or says what is wrong with it.
    let parseAt (endpoint: string) (text: string) : Result<HubName, LayerSkipError list> =
        if isAddress text then
            match ofPage endpoint text with
            | Some parts -> check text parts
            | None ->
                Error [
                    LayerSkipError.NotOnHub(
                        text,
                        $"this is no page of a model on {endpoint}; write org/name, as its page has it, or {endpoint}/org/name"
                    )
                ]
        else
            check text (parted text)

    /// The same, of https://huggingface.co.
    let parse (text: string) : Result<HubName, LayerSkipError list> = parseAt defaultEndpoint text

    /// As it is written, without what goes without saying.
    let text (name: HubName) : string =
        let revision =
            if name.Revision = defaultRevision then
                ""
            else
                "@" + name.Revision
        name.Repository
        + revision
        + (name.File |> Option.map (fun file -> ":" + file) |> Option.defaultValue "")

    /// Whether a text that names a model names one on a hub: no file or folder lies there, nor a folder of its first part,
    /// and it is written as no other path would be; or is an address.
    let isMeant (text: string) : bool =
        let repository, _, file = parted text

        match repository.Split '/' with
        | _ when isAddress text -> not (Path.Exists text)
        | [| maker; model |] when maker <> "" && model <> "" ->
            not (
                maker.StartsWith '.'
                || maker.StartsWith '~'
                || text.Contains '\\'
                || file.IsNone && model.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase)
                || Path.Exists text
                || Directory.Exists maker
            )
        | _ -> false
