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

    /// Reads a name, or says what is wrong with it.
    let parse (text: string) : Result<HubName, LayerSkipError list> =
        let repository, named, file = parted text
        let form = "write org/name, org/name@REVISION, or org/name:FILE.gguf"
        let must holds why = Check.that holds (LayerSkipError.NotOnHub(text, $"{why}; {form}"))
        let parts = repository.Split '/'

        let faults = [
            yield!
                must
                    (parts.Length = 2 && parts |> Array.forall (fun (text: string) -> part.IsMatch text))
                    "this is no name of a model on a hub: a maker and a model of letters, digits, \"-\", \"_\" and \".\", with a slash between"
            yield!
                must
                    (named |> Option.forall (fun (text: string) -> revision.IsMatch text))
                    "what follows \"@\" is no branch, tag or commit"
            yield!
                must (file |> Option.forall isFile) "what follows \":\" is neither a file nor a quantisation"
        ]

        Check.all faults { Repository = repository; Revision = defaultArg named defaultRevision; File = file }

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
    /// and it is written as no other path would be.
    let isMeant (text: string) : bool =
        let repository, _, file = parted text

        match repository.Split '/' with
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
